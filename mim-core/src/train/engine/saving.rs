//! Checkpoints of a run: written, kept and resumed from.

use super::Trainer;
use crate::Result;
use crate::train::EpochLog;
use crate::train::checkpoint::{self, Checkpoint, TrainState};

impl Trainer {
    /// Resumes from a checkpoint, bit-exactly unless the number of processes has changed. If the number of images has
    /// changed, the current epoch starts again, because its order and length are different.
    ///
    /// # Errors
    ///
    /// If the checkpoint does not fit the method or the settings, or is damaged.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.check_place(checkpoint)?;
        checkpoint.load_method(self.method.as_ref())?;
        checkpoint.load_optimizer(self.stepper.optimizer_mut())?;
        let (images, resolved) = (self.state.images, std::mem::take(&mut self.state.config));
        self.state = TrainState {
            config: resolved,
            images,
            ..checkpoint.state().clone()
        };
        let before = checkpoint.state().images;
        if before.is_some_and(|before| Some(before) != images) {
            self.state.iter = 0;
            self.state.sums.clear();
        }
        self.change_world();
        if self.writes() {
            EpochLog::new(&self.run).rewind(self.state.epoch)?;
            // The run that wrote it may have ended before it removed older ones.
            if checkpoint.path().starts_with(&self.run) {
                let keep = self.config.keep_checkpoints;
                checkpoint::prune(&self.run, self.state.step, keep)?;
            }
        }
        Ok(())
    }

    /// Writes a checkpoint of the current state, if this process writes the run folder.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if it cannot be written.
    pub fn save(&self) -> Result<()> {
        if !self.writes() {
            return Ok(());
        }
        let optimizer = self.stepper.optimizer();
        checkpoint::save(
            &self.run,
            &self.state,
            self.method.as_ref(),
            optimizer,
            self.config.keep_checkpoints,
        )
        .map(drop)
    }

    /// Writes a checkpoint of the current state as `best`, and replaces an earlier one.
    pub(super) fn keep(&self) -> Result<()> {
        if !self.writes() {
            return Ok(());
        }
        let (run, optimizer) = (&self.run, self.stepper.optimizer());
        checkpoint::keep(run, &self.state, self.method.as_ref(), optimizer)
    }
}
