//! How a run ends.

use std::process::ExitCode;
use std::time::Instant;

use candle_core::Device;
use mim_core::Result;
use mim_core::comm::Communicator;
use mim_core::train::{Outcome, Trainer};

use super::finish::finish;
use super::watch::Watch;
use crate::RunConfig;
use crate::cli::mlflow::Status;
use crate::run_config::Images;

/// How training ended, and what follows.
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) watch: Watch,
    pub(super) evaluate: bool,
    pub(super) start: Instant,
}

impl End {
    /// Prints how the run ended, and reports the results unless a signal ended it.
    pub(super) fn conclude(
        mut self,
        config: &RunConfig,
        (trainer, images): (&Trainer, &Images),
        (device, comm): (&Device, &dyn Communicator),
    ) -> Result<ExitCode> {
        let (leads, run) = (comm.rank() == 0, trainer.run().display());
        let status = self.watch.progress.finish();
        let why = self.watch.ended.take();
        if let (Some(why), true) = (&why, leads) {
            eprintln!("the run ends here: {why}");
        }
        // Before the rest, which only rank 0 does.
        comm.leave();
        let mlflow = self.watch.mlflow.take();
        let stopped = match (self.outcome, why) {
            (Outcome::Stopped { step }, None) => Some(format!(
                "stopped after step {step}; resume with --resume auto --output-dir {run}"
            )),
            // The signal arrived during the last step.
            _ if status != 0 => Some(format!(
                "training is done, but the probes are not; do them with --resume auto --output-dir {run}"
            )),
            _ => None,
        };
        if let Some(line) = stopped {
            mlflow.into_iter().for_each(|run| run.end(Status::Killed));
            if leads {
                eprintln!("{line}");
            }
            return Ok(ExitCode::from(status));
        }
        if leads {
            finish(config, (trainer, images), self.evaluate, device, self.start);
            mlflow.into_iter().for_each(|run| run.end(Status::Finished));
            println!("{run}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
