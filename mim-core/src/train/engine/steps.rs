//! The steps of an epoch.

use std::time::Instant;

use super::Trainer;
use crate::data::Loader;
use crate::train::failed_step::named;
use crate::train::{EventWriter, FailedStep, Observer, PendingStep, StepReport, checkpoint};
use crate::{Batch, Error, Result, StepContext};

/// The observers of each step.
pub(super) struct Watch<'a> {
    pub(super) observer: &'a mut dyn Observer,
    /// Only in the process that writes the run folder.
    pub(super) events: Option<EventWriter>,
}

/// A step in progress, and its inputs.
pub(super) struct Started {
    pub(super) pending: PendingStep,
    asked: Asked,
}

/// Position, learning rate and images of a step.
struct Asked {
    step: StepContext,
    lr: f64,
    images: Vec<Vec<u32>>,
}

impl Trainer {
    /// Runs the rest of the epoch; returns true if a stop was requested. All reports have been read by then.
    ///
    /// While a GPU computes a step, the host reads the report of the previous one and queues the next one.
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
    pub(super) fn loader(&self) -> Result<Loader> {
        self.sharded_loader(self.comm.rank(), self.comm.world())
    }

    /// The same for one of several processes.
    pub(super) fn sharded_loader(&self, rank: usize, world: usize) -> Result<Loader> {
        let (dataset, loading) = &self.data;
        Loader::new(
            dataset.clone(),
            self.method.views(self.state.epoch),
            loading.clone(),
            self.config.seed,
        )?
        .sharded(rank, world)
    }

    /// Starts the optimizer step at the current position.
    pub(super) fn start(
        &mut self,
        batches: &mut impl Iterator<Item = Result<Batch>>,
    ) -> Result<Started> {
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
        let started = self.stepper.start(method, &micro, &step, lr);
        let images = micro.into_iter().map(|batch| batch.indices).collect();
        let asked = Asked { step, lr, images };
        let pending = started.map_err(|error| self.failed(error, &asked, true))?;
        self.state.iter += 1;
        self.state.step += 1;
        let pending = pending.waited(waited);
        Ok(Started { pending, asked })
    }

    /// Saves what a replay needs of a step whose loss or gradient norm was not finite, with the parameters if they have not
    /// changed yet. Returns the error, which says where this was saved.
    fn failed(&self, error: Error, asked: &Asked, unmoved: bool) -> Error {
        let Error::NonFinite { what, step, fix } = error else {
            return error;
        };
        let kept = match self.writes() {
            true => self.keep_failed(&what, asked, unmoved),
            false => Ok(()),
        };
        let fix = match kept {
            Ok(()) => {
                let run = self.run.display();
                format!("find the image and the term with `mim replay {run}`, then {fix}").into()
            }
            Err(error) => {
                tracing::warn!("the step cannot be saved for a replay: {error}");
                fix
            }
        };
        Error::NonFinite { what, step, fix }
    }

    fn keep_failed(&self, what: &str, asked: &Asked, unmoved: bool) -> Result<()> {
        let dataset = self.data.0.as_ref();
        let batches = asked.images.iter().map(|images| named(dataset, images));
        let failed = FailedStep {
            what: what.to_owned(),
            step: asked.step.global_iter(),
            epoch: asked.step.epoch,
            iter: asked.step.iter,
            seed: self.config.seed,
            world: self.comm.world(),
            lr: asked.lr,
            kept: unmoved,
            batches: batches.collect(),
        };
        if unmoved {
            let (method, optimizer) = (self.method.as_ref(), self.stepper.optimizer());
            let folder = FailedStep::folder(&self.run);
            checkpoint::write(&folder, &self.state, method, optimizer)?;
        }
        failed.write(&self.run)
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
    fn read(&mut self, started: Option<Started>, watch: &mut Watch<'_>) -> Result<()> {
        let Some(Started { pending, asked }) = started else {
            return Ok(());
        };
        let report = pending.wait();
        let report = report.map_err(|error| self.failed(error, &asked, false))?;
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

/// The figures of a step for the event file.
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
