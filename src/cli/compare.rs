//! `mim compare`.

use std::path::PathBuf;
use std::process::ExitCode;

use mim_core::Result;

use crate::compare::{Comparison, Table};

/// Settings of `mim compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run folders. Runs that differ only in their seed share one row, with mean and deviation.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Results to show, by their names in summary.json [default: the usual ones].
    #[arg(long, value_delimiter = ',')]
    metrics: Vec<String>,
    /// Format of the table.
    #[arg(long, value_enum, default_value_t = Format::Markdown)]
    format: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// A table for people.
    Markdown,
    /// Mean and deviation in separate columns.
    Csv,
    /// All results of all rows.
    Json,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let comparison = Comparison::of(&args.runs, &args.metrics)?;
    match args.format {
        Format::Markdown => print!("{}", comparison.to_text(Table::Markdown)),
        Format::Csv => print!("{}", comparison.to_text(Table::Csv)),
        Format::Json => println!("{:#}", comparison.to_json()),
    }
    Ok(ExitCode::SUCCESS)
}
