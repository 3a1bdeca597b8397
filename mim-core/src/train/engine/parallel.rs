//! Training in several processes.

use std::sync::Arc;

use super::{Trainer, stages};
use crate::comm::{self, Communicator};
use crate::train::Observer;
use crate::{Result, ops};

impl Trainer {
    /// Trains together with the other processes of `comm`. Each process has a trainer with the same settings and its share of
    /// every batch. Call it before [`Trainer::resume`].
    ///
    /// Random draws of a step (masks, stochastic depth) are keyed by rank, those of images (augmentation) are not.
    ///
    /// # Errors
    ///
    /// If an epoch has less than one step for all processes.
    pub fn parallel(mut self, comm: Arc<dyn Communicator>) -> Result<Self> {
        let (config, world) = (&self.config, comm.world());
        self.iters_per_epoch = config.steps_per_epoch(self.data.0.len(), world)?;
        self.lr = stages::learning_rate(self.method.as_ref(), config, world);
        self.state.world = world;
        self.comm = comm;
        Ok(self)
    }

    /// The highest learning rate of the run.
    pub fn peak_lr(&self) -> f64 {
        let factor = self.method.batch_factor();
        self.config.peak_lr(factor, self.comm.world())
    }

    /// Whether this process writes the run folder.
    pub(super) fn writes(&self) -> bool {
        self.comm.rank() == 0
    }

    /// Whether any process requested a stop; all stop together.
    pub(super) fn stops(&self, observer: &dyn Observer) -> Result<bool> {
        comm::any(self.comm.as_ref(), observer.stop())
    }

    /// Checks that all processes start from the same weights at the same step.
    pub(super) fn same_start(&self) -> Result<()> {
        let comm = self.comm.as_ref();
        if comm.world() == 1 {
            return Ok(());
        }
        let mut squares = 0.;
        for (_, store) in self.method.stores() {
            for (_, var) in store.parameters() {
                squares += ops::sum_squares(&var)?;
            }
        }
        comm::same(comm, "the initial weights", f64::to_bits(squares))?;
        comm::same(comm, "the steps done", self.state.step as u64)
    }

    /// Keeps the position in the epoch if the number of processes, and with it the batch of a step, has changed.
    pub(super) fn change_world(&mut self) {
        let (then, now) = (self.state.world, self.comm.world());
        if then == now {
            return;
        }
        if self.writes() {
            tracing::warn!(
                "the run had {then} processes and now has {now}: batches and random draws are different, so the result is \
                 not bit-exact"
            );
        }
        let iter = (self.state.iter * then / now).min(self.iters_per_epoch);
        let share = iter as f64 / self.state.iter.max(1) as f64;
        self.state.sums.values_mut().for_each(|sum| *sum *= share);
        (self.state.iter, self.state.world) = (iter, now);
    }
}
