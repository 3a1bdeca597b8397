//! `--dry-run`: all checks and one step; nothing is kept.

use std::path::{Path, PathBuf};
use std::time::Instant;

use mim_core::train::{Observer, StepReport, Trainer};
use mim_core::{Error, Result};

use crate::cli::folder;

/// The folder of a dry run: next to the run folder, so that it is on the same disk.
pub(super) fn folder_beside(run: &Path) -> PathBuf {
    let mut name = run.file_name().unwrap_or_default().to_owned();
    name.push(".dry-run");
    run.with_file_name(name)
}

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

/// Does the first step and removes the folder; returns a line with the result.
pub(super) fn step(trainer: &mut Trainer, leads: bool) -> Result<String> {
    let (start, mut first) = (Instant::now(), First::default());
    let done = trainer.train(&mut first);
    let seconds = start.elapsed().as_secs_f64();
    if leads {
        folder::remove(trainer.run())?;
    }
    done?;
    let report = first.0.ok_or_else(|| {
        let why = "the run has no step";
        Error::unsupported("a dry run", why, "train for one epoch or more")
    })?;
    Ok(format!(
        "dry run: the first of {} steps took {seconds:.1} s with its checkpoint, loss {:.4}; nothing is kept",
        report.total, report.loss
    ))
}
