//! `mim data`.

mod stats;

use std::process::ExitCode;

use mim_core::Result;

use crate::cli::examples;

/// Settings of `mim data`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

/// What is done with the data.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Measure mean and deviation of each channel over all training images, and print the `norm` table.
    #[command(after_help = examples::DATA)]
    Stats(stats::Args),
}

impl Args {
    /// Threads asked for.
    pub(crate) fn threads(&self) -> Option<usize> {
        match &self.what {
            What::Stats(args) => args.threads(),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Stats(args) => stats::run(args),
    }
}
