//! Checks of the position in a run that a checkpoint records.

use super::Trainer;
use crate::train::{Checkpoint, EpochLog};
use crate::{Error, Result};

impl Trainer {
    /// Checks that the numbers of a checkpoint fit the settings and each other.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming those that do not.
    pub(super) fn check_place(&self, checkpoint: &Checkpoint) -> Result<()> {
        let (state, config) = (checkpoint.state(), &self.config);
        let (epoch, iter, step) = (state.epoch, state.iter, state.step);
        let images = state.images.unwrap_or(self.data.0.len());
        let of_epoch = config.steps_per_epoch(images, state.world.max(1));
        let of_epoch = of_epoch.unwrap_or_default();
        let place = format!("epoch {epoch}, step {iter} of {of_epoch} in it");
        let what = if state.seed != config.seed {
            let seed = config.seed;
            format!(
                "its seed is {}, but that of the settings is {seed}",
                state.seed
            )
        } else if epoch > config.epochs {
            let epochs = config.epochs;
            format!("it has completed {epoch} epochs, but the settings have {epochs}")
        } else if iter >= of_epoch || state.world == 0 {
            format!(
                "its position is impossible: {place}, {} processes",
                state.world
            )
        } else if epoch.saturating_add(iter) > step || !self.step_fits(checkpoint, of_epoch) {
            format!("its step {step} does not match its position: {place}")
        } else {
            return Ok(());
        };
        let fix = "resume from another checkpoint of the run, under its own settings";
        Err(Error::format(checkpoint.path(), what, fix))
    }

    /// Whether the step follows from the position. It need not if the number of processes or images has changed during the
    /// run; then the checksum of `state.json`, or else the log, confirms it.
    fn step_fits(&self, checkpoint: &Checkpoint, of_epoch: usize) -> bool {
        let state = checkpoint.state();
        let before = state.epoch.checked_mul(of_epoch);
        let regular = before.and_then(|before| before.checked_add(state.iter));
        if regular == Some(state.step) || checkpoint.has_checksums() {
            return true;
        }
        let run = checkpoint.path().ancestors().nth(2);
        let log = run.map(|run| EpochLog::new(run).read());
        let log = log.and_then(Result::ok).unwrap_or_default();
        let last = log.iter().find(|record| record.epoch + 1 == state.epoch);
        last.is_some_and(|last| last.step.checked_add(state.iter) == Some(state.step))
    }
}
