//! Where training stands.

use std::sync::Arc;

use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;

use crate::comm::{Communicator, Single};
use crate::rng::{Purpose, stream};
use crate::{Mask, Result};

/// Receives named intermediates of a forward pass, for parity checks and pictures.
pub trait TraceSink: Send + Sync {
    /// Takes the tensor called `name`.
    ///
    /// # Errors
    ///
    /// Whatever the sink cannot handle; the forward pass stops with it.
    fn record(&self, name: &str, value: &Tensor) -> Result<()>;

    /// Takes the mask of the step, which a tensor of zeros and ones tells in part alone: not its order, nor which tokens
    /// take no part. Default: nothing.
    ///
    /// # Errors
    ///
    /// As [`TraceSink::record`].
    fn mask(&self, _mask: &Mask) -> Result<()> {
        Ok(())
    }
}

/// Where training stands: everything schedules and random streams depend on. Cheap to clone.
#[derive(Clone)]
pub struct StepContext {
    /// The run's seed.
    pub seed: u64,
    /// Current epoch, from 0.
    pub epoch: usize,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Optimizer step within the epoch, from 0.
    pub iter: usize,
    /// Optimizer steps of an epoch.
    pub iters_per_epoch: usize,
    /// Micro-batch within the optimizer step, from 0 (gradient accumulation).
    pub micro: usize,
    /// Pass of one network within a forward pass, from 0 to 15 (crops of several sizes).
    pub pass: u8,
    /// Whether this is a training step: batch statistics, stochastic depth.
    pub training: bool,
    /// Whether stochastic depth drops blocks, and dropout values, in a training step; false in teachers.
    pub stochastic_depth: bool,
    /// Whether transformer blocks keep only their input and compute the rest again in the backward pass.
    pub recompute: bool,
    /// The group of processes that train together.
    pub comm: Arc<dyn Communicator>,
    /// Where named intermediates go; none in ordinary training.
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

    /// The same step without [`StepContext::recompute`].
    pub(crate) fn keeping(&self) -> Self {
        Self {
            recompute: false,
            ..self.clone()
        }
    }

    /// Epochs done so far, with the fraction of the current one.
    pub fn fractional_epoch(&self) -> f64 {
        self.epoch as f64 + self.iter as f64 / self.iters_per_epoch.max(1) as f64
    }

    /// Optimizer steps before this one.
    pub fn global_iter(&self) -> usize {
        self.epoch * self.iters_per_epoch + self.iter
    }

    /// Optimizer steps of the whole run.
    pub fn total_iters(&self) -> usize {
        self.epochs * self.iters_per_epoch
    }

    /// The random stream for one use in this step; `lane` tells uses of the same purpose apart
    /// (a layer's index, a view's index).
    pub fn rng(&self, purpose: Purpose, lane: u32) -> ChaCha8Rng {
        let (rank, micro, pass) = (self.comm.rank(), self.micro, self.pass);
        let place =
            (rank as u64) << 48 | u64::from(pass) << 60 | (micro as u64) << 32 | u64::from(lane);
        stream(self.seed, purpose, [self.global_iter() as u64, place])
    }

    /// The same step for a teacher: without stochastic depth, its intermediates named `teacher.name`.
    /// Batch norms keep the statistics of the batch, as momentum teachers do in training.
    #[must_use]
    pub fn teacher(&self) -> Self {
        Self {
            stochastic_depth: false,
            ..self.scoped("teacher")
        }
    }

    /// The same step whose intermediates are named `scope.name`: for a second network in one forward pass.
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

    /// Hands a named intermediate to the sink; `value` is only computed when there is one.
    ///
    /// # Errors
    ///
    /// What `value` or the sink return.
    pub fn trace(&self, name: &str, value: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        match &self.trace {
            Some(sink) => sink.record(name, &value()?),
            None => Ok(()),
        }
    }

    /// Hands the mask of the step to the sink.
    ///
    /// # Errors
    ///
    /// What the sink returns.
    pub fn trace_mask(&self, mask: &Mask) -> Result<()> {
        match &self.trace {
            Some(sink) => sink.mask(mask),
            None => Ok(()),
        }
    }
}

/// A sink that puts a scope before each name.
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
