//! One optimizer step.

use super::pending_step::{PendingNumbers, Scalars};
use super::{PendingStep, StepReport};
use crate::ops::{AsyncDownload, Precision, with_precision};
use crate::optim::{Clip, Freeze, Gradients, Optimizer, OptimizerConfig};
use crate::{Batch, Error, Method, Result, StepContext};

/// Runs optimizer steps of one method: forward, backward, clipping, optimizer.
#[derive(Debug)]
pub struct Stepper {
    optimizer: Box<dyn Optimizer>,
    gradients: Gradients,
    clip: Clip,
    freeze: Vec<Freeze>,
    precision: Precision,
    recompute: bool,
}

impl Stepper {
    /// For the trainable parameters of the method's student.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, or the method has nothing to train.
    pub fn new(
        method: &dyn Method,
        optimizer: impl Into<OptimizerConfig>,
        clip: Clip,
    ) -> Result<Self> {
        clip.validate()?;
        let trainable = method
            .stores()
            .first()
            .map(|(_, student)| student.trainable())
            .unwrap_or_default();
        if trainable.is_empty() {
            return Err(Error::unsupported(
                format!("training {}", method.name()),
                "it has no trainable parameters",
                "build it on a student store, not on a teacher's",
            ));
        }
        let optimizer = optimizer.into().build(trainable.clone())?;
        Ok(Self {
            optimizer,
            gradients: Gradients::new(trainable),
            clip,
            freeze: Vec::new(),
            precision: Precision::F32,
            recompute: false,
        })
    }

    /// Does not train some parameters in the first epochs.
    #[must_use]
    pub fn freeze(self, freeze: Vec<Freeze>) -> Self {
        Self { freeze, ..self }
    }

    /// Sets the precision of matrix products in forward and backward passes.
    #[must_use]
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Whether transformer blocks store only their input and recompute the rest in the backward pass. This saves memory and
    /// costs about a third more time.
    #[must_use]
    pub fn recompute(self, recompute: bool) -> Self {
        Self { recompute, ..self }
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &dyn Optimizer {
        &*self.optimizer
    }

    /// The optimizer, for loading its state.
    pub fn optimizer_mut(&mut self) -> &mut dyn Optimizer {
        &mut *self.optimizer
    }

    /// One optimizer step over all `batches` (several for gradient accumulation) of all processes of `step.comm`. The
    /// report averages over all processes.
    ///
    /// It waits for a GPU once, after the backward passes; [`Stepper::start`] does not.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], before any parameter changes, if the loss or the gradient norm is not finite.
    pub fn step(
        &mut self,
        method: &dyn Method,
        batches: &[Batch],
        step: &StepContext,
        lr: f64,
    ) -> Result<StepReport> {
        let report = self.backward(method, batches, step, lr)?.wait()?;
        self.update(method, step, lr)?;
        Ok(report)
    }

    /// [`Stepper::step`] without waiting for its report: on a GPU the step is queued, and the host goes on.
    ///
    /// # Errors
    ///
    /// As [`Stepper::step`] on the CPU. On a GPU only [`PendingStep::wait`] finds values that are not finite. The parameters
    /// have changed by then, so training must continue from a checkpoint.
    pub fn start(
        &mut self,
        method: &dyn Method,
        batches: &[Batch],
        step: &StepContext,
        lr: f64,
    ) -> Result<PendingStep> {
        let mut started = self.backward(method, batches, step, lr)?;
        if !started.on_gpu() {
            started.read()?;
        }
        self.update(method, step, lr)?;
        Ok(started)
    }

    /// Gradients, averaged and clipped.
    fn backward(
        &mut self,
        method: &dyn Method,
        batches: &[Batch],
        step: &StepContext,
        lr: f64,
    ) -> Result<PendingStep> {
        if batches.is_empty() {
            let fix = "give each step the batches it accumulates over";
            return Err(Error::shape("step", "at least one batch", 0, fix));
        }
        method.before_step(step)?;
        self.gradients.clear();
        let mut scalars = Scalars::default();
        let share = 1. / batches.len() as f64;
        for (micro, batch) in batches.iter().enumerate() {
            let step = StepContext {
                micro,
                recompute: self.recompute,
                ..step.clone()
            };
            with_precision(self.precision, || {
                let terms = method.forward(batch, &step)?;
                let total = terms.total()?;
                scalars.note(&terms, &total);
                let scaled = if share == 1. { total } else { (total * share)? };
                match micro + 1 == batches.len() {
                    true => self.gradients.backward_sending(&scaled, &step.comm),
                    false => self.gradients.backward(&scaled),
                }
            })?;
        }
        self.gradients.average(step.comm.as_ref())?;
        let squares = self.clip.apply(&mut self.gradients)?;
        let images = batches.iter().map(Batch::len).sum::<usize>();
        let report = StepReport {
            step: step.global_iter() + 1,
            total: step.total_iters(),
            epoch: step.epoch,
            loss: 0.,
            terms: Vec::new(),
            lr,
            grad_norm: 0.,
            images: images * step.comm.world(),
            waited: 0.,
        };
        let coming = PendingNumbers {
            squares: AsyncDownload::new(&squares)?,
            scalars: scalars.mean(step.comm.as_ref())?,
            share,
        };
        Ok(PendingStep::new(report, coming, squares.device()))
    }

    /// Updates the parameters, and then teachers and other state.
    fn update(&mut self, method: &dyn Method, step: &StepContext, lr: f64) -> Result<()> {
        for freeze in &self.freeze {
            freeze.apply(&mut self.gradients, step);
        }
        self.optimizer.step(&self.gradients, lr)?;
        method.after_step(step)
    }
}
