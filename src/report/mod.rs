//! Reports of runs as self-contained HTML pages: no server, no network.
//!
//! Curves are drawn by uPlot (MIT), which is embedded in the page.

pub(crate) mod data;
mod page;

use std::path::Path;

use mim_core::Result;

use data::RunData;

/// The page of one run: results, curves, pictures, settings.
///
/// # Errors
///
/// If the folder is not a run, or one of its files cannot be read.
pub fn of_run(run: &Path) -> Result<String> {
    Ok(page::single(&RunData::read(run)?))
}

/// One page for several runs: a sortable table, curves in one chart, any setting plotted against any result.
///
/// # Errors
///
/// Those of [`of_run`].
pub fn of_runs(runs: &[impl AsRef<Path>]) -> Result<String> {
    let all = runs.iter().map(|run| RunData::read(run.as_ref()));
    Ok(page::many(&all.collect::<Result<Vec<_>>>()?))
}
