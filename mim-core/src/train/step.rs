//! One optimizer step.

use candle_core::Tensor;

use super::StepReport;
use crate::comm::{self, Communicator};
use crate::ops::{Precision, with_precision};
use crate::optim::{Clip, Gradients, Hold, Optimizer, OptimizerConfig};
use crate::{Batch, Error, LossTerms, Method, Result, StepContext};

/// Runs optimizer steps of one method: forward, backward, clipping, optimizer.
///
/// The host reads twice a step from the device, both times a few numbers behind the backward passes: the losses
/// in one copy, and the sums of squares of all gradients in another. Both must be finite before a parameter moves.
#[derive(Debug)]
pub struct Stepper {
    optimizer: Box<dyn Optimizer>,
    gradients: Gradients,
    clip: Clip,
    hold: Vec<Hold>,
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
                "none of its parameters is trainable",
                "build it on a student store, not on a teacher's",
            ));
        }
        let optimizer = optimizer.into().build(trainable.clone())?;
        Ok(Self {
            optimizer,
            gradients: Gradients::new(trainable),
            clip,
            hold: Vec::new(),
            precision: Precision::F32,
            recompute: false,
        })
    }

    /// Leaves some parameters alone for a while.
    #[must_use]
    pub fn hold(self, hold: Vec<Hold>) -> Self {
        Self { hold, ..self }
    }

    /// Computes matrix products of forward and backward passes in this precision.
    #[must_use]
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Whether transformer blocks keep only their input and compute the rest again in the backward pass: less
    /// memory for about a third more time.
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

    /// One optimizer step over all `batches` (more than one: gradient accumulation), and over those of the other
    /// processes of `step.comm`. The report is of this process alone, but for the gradient norm.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], before anything has moved, if the loss or the gradient norm is not finite.
    pub fn step(
        &mut self,
        method: &dyn Method,
        batches: &[Batch],
        step: &StepContext,
        lr: f64,
    ) -> Result<StepReport> {
        method.before_step(step)?;
        self.gradients.clear();
        let mut report = StepReport {
            step: step.global_iter() + 1,
            total: step.total_iters(),
            epoch: step.epoch,
            loss: 0.,
            terms: Vec::new(),
            lr,
            grad_norm: 0.,
            images: batches.iter().map(Batch::len).sum(),
        };
        let mut scalars = Scalars::default();
        let share = 1. / batches.len().max(1) as f64;
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
        scalars.read(&mut report, share)?;
        finite("the loss", report.loss, step)?;
        self.gradients.average(step.comm.as_ref())?;
        report.grad_norm = self.clip.apply(&mut self.gradients)?;
        finite("the gradient norm", report.grad_norm, step)?;
        for hold in &self.hold {
            hold.apply(&mut self.gradients, step);
        }
        self.optimizer.step(&self.gradients, lr)?;
        method.after_step(step)?;
        Ok(report)
    }
}

impl StepReport {
    /// The report of all processes together.
    pub(super) fn over_all(&mut self, comm: &dyn Communicator) -> Result<()> {
        let own = std::iter::once(&self.loss).chain(self.terms.iter().map(|(_, value)| value));
        let means = comm::mean(comm, &own.copied().collect::<Vec<_>>())?;
        let terms = self.terms.iter_mut().map(|(_, value)| value);
        for (value, mean) in std::iter::once(&mut self.loss).chain(terms).zip(means) {
            *value = mean;
        }
        self.images *= comm.world();
        Ok(())
    }
}

/// Losses and their terms, still on the device: read together behind the backward passes, so that the host waits
/// for the device there alone and not within each pass.
#[derive(Default)]
struct Scalars {
    /// A term's name; none for the loss.
    values: Vec<(Option<String>, Tensor)>,
    metrics: Vec<(String, f64)>,
}

impl Scalars {
    /// Notes those of one micro-batch.
    fn note(&mut self, terms: &LossTerms, total: &Tensor) {
        self.values.push((None, total.detach()));
        for (name, value, _) in terms.terms() {
            self.values.push((Some(name.clone()), value.detach()));
        }
        self.metrics.extend(terms.metrics().iter().cloned());
    }

    /// Adds the micro-batches' shares to the means of the report.
    fn read(self, report: &mut StepReport, share: f64) -> Result<()> {
        let (names, values): (Vec<_>, Vec<_>) = self.values.into_iter().unzip();
        if values.is_empty() {
            return Ok(());
        }
        let values = Tensor::stack(&values, 0)?.to_vec1::<f32>()?;
        let values = names.into_iter().zip(values.into_iter().map(f64::from));
        let metrics = self.metrics.into_iter();
        for (name, value) in values.chain(metrics.map(|(name, value)| (Some(name), value))) {
            let Some(name) = name else {
                report.loss += share * value;
                continue;
            };
            match report.terms.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += share * value,
                None => report.terms.push((name, share * value)),
            }
        }
        Ok(())
    }
}

fn finite(what: &'static str, value: f64, step: &StepContext) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::NonFinite {
        what: what.into(),
        step: step.global_iter(),
        fix: "lower the learning rate, lengthen the warm-up or clip gradients, then resume from the last checkpoint".into(),
    })
}
