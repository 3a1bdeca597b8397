//! The steps of an epoch.

use std::time::Instant;

use super::Trainer;
use crate::data::Loader;
use crate::train::{EventWriter, Observer, PendingStep, StepReport};
use crate::{Batch, Result, StepContext};

/// Who is told of each step.
pub(super) struct Watch<'a> {
    pub(super) observer: &'a mut dyn Observer,
    /// Of the process that writes.
    pub(super) events: Option<EventWriter>,
}

impl Trainer {
    /// Runs the rest of the epoch; returns true if a stop was requested. All reports have been read by then.
    ///
    /// A GPU computes a step while the host reads the report of the one before and asks for the one after.
    pub(super) fn steps(&mut self, watch: &mut Watch<'_>) -> Result<bool> {
        let first = self.state.iter * self.config.accum_iter;
        let mut batches = self.loader()?.epoch(self.state.epoch, first)?;
        let (mut last, mut stops) = (None, false);
        while self.state.iter < self.iters_per_epoch && !stops {
            let mut started = Some(self.start(&mut batches)?);
            if self.device.is_cuda() {
                std::mem::swap(&mut started, &mut last);
            }
            self.read(started, watch)?;
            stops = self.stops(watch.observer)?;
        }
        self.read(last, watch)?;
        Ok(stops && self.state.iter < self.iters_per_epoch)
    }

    /// The loader of the current epoch: a method's views may change between epochs.
    fn loader(&self) -> Result<Loader> {
        let (dataset, loading) = &self.data;
        Loader::new(
            dataset.clone(),
            self.method.views(self.state.epoch),
            loading.clone(),
            self.config.seed,
        )?
        .sharded(self.comm.rank(), self.comm.world())
    }

    /// Starts the optimizer step at the current place.
    fn start(&mut self, batches: &mut impl Iterator<Item = Result<Batch>>) -> Result<PendingStep> {
        let start = Instant::now();
        let micro = batches.take(self.config.accum_iter);
        let micro = micro.collect::<Result<Vec<_>>>()?;
        let waited = start.elapsed().as_secs_f64();
        let micro = micro.into_iter();
        let micro = micro
            .map(|batch| batch.to_device(&self.device))
            .collect::<Result<Vec<_>>>()?;
        let step = self.context();
        if let Some(schedule) = &self.config.weight_decay_schedule {
            let optimizer = self.stepper.optimizer_mut();
            optimizer.set_weight_decay(schedule.at(&step));
        }
        let (method, lr) = (self.method.as_ref(), self.lr.at(&step));
        let started = self.stepper.start(method, &micro, &step, lr)?;
        self.state.iter += 1;
        self.state.step += 1;
        Ok(started.waited(waited))
    }

    pub(super) fn context(&self) -> StepContext {
        StepContext {
            epoch: self.state.epoch,
            epochs: self.config.epochs,
            iter: self.state.iter,
            iters_per_epoch: self.iters_per_epoch,
            comm: self.comm.clone(),
            ..StepContext::new(self.config.seed)
        }
    }

    /// Waits for the report of a step, if there is one, adds it to the means of the epoch and passes it on.
    fn read(&mut self, started: Option<PendingStep>, watch: &mut Watch<'_>) -> Result<()> {
        let Some(started) = started else {
            return Ok(());
        };
        let report = started.wait()?;
        let sums = [("loss", report.loss), ("grad_norm", report.grad_norm)];
        let sums = sums.map(|(name, value)| (name.to_owned(), value));
        let terms = report.terms.iter();
        let terms = terms.map(|(name, value)| (format!("terms.{name}"), *value));
        for (name, value) in sums.into_iter().chain(terms) {
            *self.state.sums.entry(name).or_default() += value;
        }
        if let Some(events) = &mut watch.events {
            events.scalars(report.step, scalars(&report))?;
        }
        watch.observer.step(&report);
        Ok(())
    }
}

/// What a step writes to the event file.
fn scalars(report: &StepReport) -> impl Iterator<Item = (&str, f64)> {
    let own = [
        ("loss", report.loss),
        ("lr", report.lr),
        ("grad_norm", report.grad_norm),
    ];
    let terms = report.terms.iter();
    own.into_iter()
        .chain(terms.map(|(name, value)| (name.as_str(), *value)))
}
