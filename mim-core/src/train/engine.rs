//! The loop over epochs and steps, with exact resume.

mod non_finite;
mod parallel;
mod place;
mod replay;
mod room;
mod saving;
mod stages;
mod steps;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;

pub use self::replay::{Origin, Replay, ReplayedBatch};
use self::steps::Watch;
use super::checkpoint::TrainState;
use super::{EpochLog, EpochRecord, EventWriter, Observer, Stepper, TrainConfig};
use crate::comm::{Communicator, Single};
use crate::data::{Dataset, LoaderConfig};
use crate::schedule::Schedule;
use crate::{Method, Result, StepContext, files};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// All epochs are done.
    Finished,
    /// The observer ended it; a checkpoint was written after this many steps.
    Stopped {
        /// Optimizer steps done.
        step: usize,
    },
}

/// Trains a method on the images of a data set, writing log, events and checkpoints into a run folder.
///
/// Several processes that share the folder train together with [`Trainer::parallel`]; only rank 0 writes.
/// `examples/02_train_mae_tiny.rs` trains MAE this way.
///
/// ```
/// use mim_core::Schedule;
/// use mim_core::data::{DataSource, LoaderConfig, Split};
/// use mim_core::train::{Checkpoint, EpochRecord, Observer, Outcome, TrainConfig, Trainer};
/// # use mim_core::Result;
/// # mod method { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bottleneck.rs")); }
/// # use method::Bottleneck;
///
/// /// Keeps the loss of each epoch.
/// #[derive(Default)]
/// struct Losses(Vec<f64>);
///
/// impl Observer for Losses {
///     fn epoch(&mut self, record: &EpochRecord) {
///         self.0.push(record.train_loss);
///     }
/// }
///
/// # fn main() -> Result<()> {
/// # let run = std::env::temp_dir().join(format!("mim-doc-trainer-{}", std::process::id()));
/// // `Bottleneck` is the method of the page of `Method`, `run` a folder.
/// let images = DataSource::Embedded.open(Split::Train)?;
/// let config = TrainConfig {
///     epochs: 2,
///     batch_size: 250,
///     lr: Some(1e-3),
///     lr_schedule: Schedule::constant(1.),
///     ..TrainConfig::default()
/// };
/// let data = (images, LoaderConfig::default());
/// let mut trainer = Trainer::new(Box::new(Bottleneck::new(0)?), data, config, &run)?;
/// let mut losses = Losses::default();
/// assert_eq!(trainer.train(&mut losses)?, Outcome::Finished);
/// assert!(losses.0[1] < losses.0[0]);
///
/// // Later, perhaps in another program: the same method with the trained weights.
/// let again = Bottleneck::new(0)?;
/// let checkpoint = Checkpoint::open(&run)?;
/// checkpoint.load_method(&again)?;
/// assert_eq!(checkpoint.state().step, 2 * 1000 / 250);
/// # std::fs::remove_dir_all(&run).ok();
/// # Ok(())
/// # }
/// ```
pub struct Trainer {
    method: Box<dyn Method>,
    data: (Arc<dyn Dataset>, LoaderConfig),
    iters_per_epoch: usize,
    config: TrainConfig,
    lr: Schedule,
    device: Device,
    comm: Arc<dyn Communicator>,
    run: PathBuf,
    stepper: Stepper,
    state: TrainState,
}

impl Trainer {
    /// A run that starts at its first step. [`Trainer::settings`] lets other programs reopen it.
    ///
    /// # Errors
    ///
    /// If a setting is invalid, or an epoch has less than one step.
    pub fn new(
        method: Box<dyn Method>,
        (dataset, loading): (Arc<dyn Dataset>, LoaderConfig),
        config: TrainConfig,
        run: impl Into<PathBuf>,
    ) -> Result<Self> {
        config.validate()?;
        let iters_per_epoch = config.steps_per_epoch(dataset.len(), 1)?;
        let device = method
            .stores()
            .first()
            .map_or(Device::Cpu, |(_, student)| student.device().clone());
        config.precision.check(&device)?;
        let stepper = Stepper::new(method.as_ref(), config.optimizer.clone(), config.clip)?
            .freeze(config.freeze.clone())
            .precision(config.precision)
            .recompute(config.recompute);
        let state = TrainState::new(method.name(), config.seed, dataset.len());
        let loading = LoaderConfig {
            batch_size: config.batch_size,
            drop_last: true,
            ..loading
        };
        stages::check(method.as_ref(), &config)?;
        room::check(method.as_ref(), &config, &device)?;
        let lr = stages::learning_rate(method.as_ref(), &config, 1);
        let data = (dataset, loading);
        Ok(Self {
            method,
            data,
            iters_per_epoch,
            config,
            lr,
            device,
            comm: Arc::new(Single),
            run: run.into(),
            stepper,
            state,
        })
    }

    /// Saves these settings with every checkpoint, so that the method can be built from them again. Without them
    /// (the default) only a program that builds the method itself can load its checkpoints.
    #[must_use]
    pub fn settings(mut self, settings: serde_json::Value) -> Self {
        self.state.config = settings;
        self
    }

    /// The method.
    pub fn method(&self) -> &dyn Method {
        self.method.as_ref()
    }

    /// The method, after training.
    pub fn into_method(self) -> Box<dyn Method> {
        self.method
    }

    /// Optimizer steps per epoch.
    pub fn iters_per_epoch(&self) -> usize {
        self.iters_per_epoch
    }

    /// Whether all epochs are done.
    pub fn finished(&self) -> bool {
        self.state.epoch >= self.config.epochs
    }

    /// Trains to the end, or until the observer ends the run.
    ///
    /// # Errors
    ///
    /// If data, device or disk fail, or the loss is not finite. Then a [`FailedStep`](super::FailedStep) is saved, and checkpoints stay.
    pub fn train(&mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        self.same_start()?;
        let events = self.events()?;
        let mut watch = Watch { observer, events };
        while !self.finished() {
            let (start, first) = (Instant::now(), self.state.iter);
            if self.steps(&mut watch)? {
                self.save()?;
                return Ok(self.stopped());
            }
            let seconds = start.elapsed().as_secs_f64();
            let batch = self.config.effective_batch(self.comm.world());
            let images = (self.state.iter - first) * batch;
            self.report_stage(watch.observer);
            let record = self.record(images as f64 / seconds, watch.observer);
            if let Some(events) = &mut watch.events {
                let values = [
                    ("epoch/loss", record.train_loss),
                    ("epoch/images_per_s", record.images_per_s),
                ];
                events.scalars(record.step, values)?;
                let measured = record.measured.iter();
                let measured = measured.map(|(name, value)| (name.as_str(), *value));
                events.scalars(record.step, measured)?;
            }
            watch.observer.epoch(&record);
            if watch.observer.keeps() {
                self.keep()?;
            }
            let saved = self.end_epoch(&record)?;
            if self.stops(watch.observer)? && !self.finished() {
                if !saved {
                    self.save()?;
                }
                return Ok(self.stopped());
            }
        }
        Ok(Outcome::Finished)
    }

    fn stopped(&self) -> Outcome {
        let step = self.state.step;
        Outcome::Stopped { step }
    }

    /// The event file, in the process that writes.
    fn events(&self) -> Result<Option<EventWriter>> {
        if !self.writes() {
            return Ok(None);
        }
        files::create_folder(&self.run)?;
        EventWriter::create(&self.run, self.state.step).map(Some)
    }

    /// The record of the epoch whose last step is done. It is made before the end of the epoch is handled, which may
    /// replace the trained network.
    fn record(&self, images_per_s: f64, observer: &mut dyn Observer) -> EpochRecord {
        let end = self.context();
        let last = StepContext {
            iter: self.state.iter - 1,
            ..end
        };
        let steps = self.iters_per_epoch as f64;
        let mean = |name: &str| self.state.sums.get(name).map_or(0., |sum| sum / steps);
        let terms = self
            .state
            .sums
            .keys()
            .filter_map(|name| Some((name.strip_prefix("terms.")?.to_owned(), mean(name))));
        EpochRecord {
            epoch: self.state.epoch,
            step: self.state.step,
            train_loss: mean("loss"),
            terms: terms.collect(),
            measured: observer.measure(self.method.as_ref(), self.state.epoch),
            lr: self.lr.at(&last),
            grad_norm: mean("grad_norm"),
            images_per_s,
        }
    }

    /// Logs the epoch, moves on to the next one, and writes a checkpoint if one is due; returns whether it did.
    fn end_epoch(&mut self, record: &EpochRecord) -> Result<bool> {
        let end = self.context();
        self.method.end_epoch(&end)?;
        if self.writes() {
            EpochLog::new(&self.run).append(record)?;
        }
        self.state.sums.clear();
        (self.state.epoch, self.state.iter) = (self.state.epoch + 1, 0);
        let every = self.config.checkpoint_every;
        let is_due = self.state.epoch.is_multiple_of(every) || self.finished();
        if is_due {
            self.save()?;
        }
        Ok(is_due)
    }

    /// The run folder.
    pub fn run(&self) -> &Path {
        &self.run
    }
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("method", &self.method.name())
            .field("run", &self.run)
            .field("epoch", &self.state.epoch)
            .field("step", &self.state.step)
            .finish_non_exhaustive()
    }
}
