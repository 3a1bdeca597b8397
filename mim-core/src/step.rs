//! The training step and its context.

use std::sync::Arc;

use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;

use crate::comm::{Communicator, Single};
use crate::rng::{Purpose, stream};
use crate::{Mask, Result};

/// Receives named intermediates of a forward pass, for parity checks and pictures.
pub trait TraceSink: Send + Sync {
    /// Records the tensor called `name`.
    ///
    /// # Errors
    ///
    /// Errors of the sink; they stop the forward pass.
    fn record(&self, name: &str, value: &Tensor) -> Result<()>;

    /// Records the mask of the step. A tensor of zeros and ones would lose its order, and which tokens
    /// are unused. Default: does nothing.
    ///
    /// # Errors
    ///
    /// As [`TraceSink::record`].
    fn mask(&self, _mask: &Mask) -> Result<()> {
        Ok(())
    }
}

/// State that schedules and random streams depend on. Cheap to clone.
#[derive(Clone)]
pub struct StepContext {
    /// The run's seed.
    pub seed: u64,
    /// Current epoch, from 0.
    pub epoch: usize,
    /// Epochs in the run.
    pub epochs: usize,
    /// Optimizer step within the epoch, from 0.
    pub iter: usize,
    /// Optimizer steps per epoch.
    pub iters_per_epoch: usize,
    /// Micro-batch within the optimizer step, from 0 (gradient accumulation).
    pub micro: usize,
    /// Number of the forward pass of a network within a step, from 0 to 15 (crops of several sizes).
    pub pass: u8,
    /// Whether this is a training step: it enables batch statistics and stochastic depth.
    pub training: bool,
    /// Whether stochastic depth and dropout act in a training step; false in teachers.
    pub stochastic_depth: bool,
    /// Whether transformer blocks store only their input and recompute the rest in the backward pass.
    pub recompute: bool,
    /// The process group.
    pub comm: Arc<dyn Communicator>,
    /// Sink of named intermediates; `None` in ordinary training.
    pub trace: Option<Arc<dyn TraceSink>>,
}

impl StepContext {
    /// The first training step of a run of one step, on one process.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            epoch: 0,
            epochs: 1,
            iter: 0,
            iters_per_epoch: 1,
            micro: 0,
            pass: 0,
            training: true,
            stochastic_depth: true,
            recompute: false,
            comm: Arc::new(Single),
            trace: None,
        }
    }

    /// A step outside training: running statistics, no stochastic depth.
    pub fn inference() -> Self {
        Self {
            training: false,
            ..Self::new(0)
        }
    }

    /// This step without [`StepContext::recompute`].
    pub(crate) fn keeping(&self) -> Self {
        Self {
            recompute: false,
            ..self.clone()
        }
    }

    /// Epochs completed, including the fraction of the current one.
    pub fn fractional_epoch(&self) -> f64 {
        self.epoch as f64 + self.iter as f64 / self.iters_per_epoch.max(1) as f64
    }

    /// Number of optimizer steps before this one.
    pub fn global_iter(&self) -> usize {
        self.epoch * self.iters_per_epoch + self.iter
    }

    /// Number of optimizer steps in the run.
    pub fn total_iters(&self) -> usize {
        self.epochs * self.iters_per_epoch
    }

    /// The random stream for one purpose in this step; `lane` separates uses of the same purpose
    /// (the index of a layer or view).
    pub fn rng(&self, purpose: Purpose, lane: u32) -> ChaCha8Rng {
        let (rank, micro, pass) = (self.comm.rank(), self.micro, self.pass);
        let place =
            (rank as u64) << 48 | u64::from(pass) << 60 | (micro as u64) << 32 | u64::from(lane);
        stream(self.seed, purpose, [self.global_iter() as u64, place])
    }

    /// This step for a teacher: without stochastic depth, with intermediates named `teacher.name`.
    /// Batch norms still use the statistics of the batch, as momentum teachers do in training.
    #[must_use]
    pub fn teacher(&self) -> Self {
        Self {
            stochastic_depth: false,
            ..self.scoped("teacher")
        }
    }

    /// This step with intermediates named `scope.name`: for a second network in one forward pass.
    #[must_use]
    pub fn scoped(&self, scope: &str) -> Self {
        let trace = self.trace.clone().map(|sink| {
            let scope = scope.to_owned();
            Arc::new(Scoped { sink, scope }) as Arc<dyn TraceSink>
        });
        Self {
            trace,
            ..self.clone()
        }
    }

    /// Passes a named intermediate to the sink; `value` is computed only if there is one.
    ///
    /// # Errors
    ///
    /// Errors of `value` and of the sink.
    pub fn trace(&self, name: &str, value: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        match &self.trace {
            Some(sink) => sink.record(name, &value()?),
            None => Ok(()),
        }
    }

    /// Passes the mask of the step to the sink.
    ///
    /// # Errors
    ///
    /// Errors of the sink.
    pub fn trace_mask(&self, mask: &Mask) -> Result<()> {
        match &self.trace {
            Some(sink) => sink.mask(mask),
            None => Ok(()),
        }
    }
}

/// A sink that prefixes each name with a scope.
struct Scoped {
    sink: Arc<dyn TraceSink>,
    scope: String,
}

impl TraceSink for Scoped {
    fn record(&self, name: &str, value: &Tensor) -> Result<()> {
        self.sink.record(&format!("{}.{name}", self.scope), value)
    }

    fn mask(&self, mask: &Mask) -> Result<()> {
        self.sink.mask(mask)
    }
}

impl std::fmt::Debug for StepContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepContext")
            .field("seed", &self.seed)
            .field("epoch", &format_args!("{}/{}", self.epoch, self.epochs))
            .field(
                "iter",
                &format_args!("{}/{}", self.iter, self.iters_per_epoch),
            )
            .field("micro", &self.micro)
            .field("training", &self.training)
            .field("traced", &self.trace.is_some())
            .finish_non_exhaustive()
    }
}
