//! Reports of runs as one HTML page each: no server, no network, everything in the file.
//!
//! Curves are drawn by uPlot (MIT), which is part of the page.

pub(crate) mod data;
mod page;

use std::path::Path;

use mim_core::Result;

use data::RunData;

/// The page of one run: results, curves, pictures, settings.
///
/// # Errors
///
/// If the folder is no run, or a file of it cannot be read.
pub fn of_run(run: &Path) -> Result<String> {
    Ok(page::single(&RunData::read(run)?))
}

/// One page for several runs: a table to sort, curves over each other, any setting against any result.
///
/// # Errors
///
/// As [`of_run`].
pub fn of_runs(runs: &[impl AsRef<Path>]) -> Result<String> {
    let all = runs.iter().map(|run| RunData::read(run.as_ref()));
    Ok(page::many(&all.collect::<Result<Vec<_>>>()?))
}
