//! `--dry-run`: all checks and one step, of which nothing is kept.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use mim_core::comm::Communicator;
use mim_core::train::{Observer, StepReport};
use mim_core::{Error, Result};

use super::{Init, ready};
use crate::RunConfig;
use crate::cli::folder;
use crate::cli::options::Options;

/// Ends a run after its first step.
#[derive(Default)]
struct First(Option<StepReport>);

impl Observer for First {
    fn step(&mut self, report: &StepReport) {
        self.0.get_or_insert_with(|| report.clone());
    }

    fn stop(&self) -> bool {
        self.0.is_some()
    }
}

/// Makes a run ready in a folder beside its own, on the same disk, does its first step, and removes the folder.
pub(super) fn run(
    (args, init): (&Options, Init<'_>),
    config: &RunConfig,
    device: &Device,
    comm: &Arc<dyn Communicator>,
) -> Result<ExitCode> {
    let leads = comm.rank() == 0;
    let run = args.output_dir.clone();
    let run = run.unwrap_or_else(|| folder::next(&config.method));
    let mut name = run.file_name().unwrap_or_default().to_owned();
    name.push(".dry-run");
    let run = run.with_file_name(name);
    let (mut trainer, _) = ready((args, init), config, (device, comm), (&run, None))?;
    let (start, mut first) = (Instant::now(), First::default());
    let done = trainer.train(&mut first);
    let seconds = start.elapsed().as_secs_f64();
    comm.leave();
    if leads {
        folder::remove(trainer.run())?;
    }
    done?;
    let report = first.0.ok_or_else(|| {
        let why = "the run has no step";
        Error::unsupported("a dry run", why, "train for an epoch or more")
    })?;
    if leads {
        eprintln!(
            "dry run: the first of {} steps took {seconds:.1} s with its checkpoint, loss {:.4}; nothing is kept",
            report.total, report.loss
        );
    }
    Ok(ExitCode::SUCCESS)
}
