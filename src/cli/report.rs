//! `mim report`.

use std::path::PathBuf;
use std::process::ExitCode;

use mim_core::{Result, files};

use crate::cli::folder;
use crate::report;

/// Settings of `mim report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run folders. One run gets its own page; several get a page that compares them.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Output HTML file [default: RUN/report.html, or report.html for several runs].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (page, default) = match args.runs.as_slice() {
        [run] => (report::of_run(run)?, run.join("report.html")),
        runs => (report::of_runs(runs)?, PathBuf::from("report.html")),
    };
    let path = args.output.clone().unwrap_or(default);
    folder::check_parent(&path)?;
    files::write(&path, &page)?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}
