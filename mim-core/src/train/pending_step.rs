//! A step queued on the device, and its pending metrics.

use candle_core::{Device, Tensor};

use super::StepReport;
use crate::comm::{Communicator, Reduce};
use crate::ops::{AsyncDownload, upload};
use crate::{Error, LossTerms, Result};

/// An optimizer step that may still be running on the GPU.
#[derive(Debug)]
pub struct PendingStep {
    report: StepReport,
    coming: Option<PendingNumbers>,
    on_gpu: bool,
}

impl PendingStep {
    pub(super) fn new(report: StepReport, coming: PendingNumbers, device: &Device) -> Self {
        Self {
            report,
            coming: Some(coming),
            on_gpu: device.is_cuda(),
        }
    }

    /// Notes how many seconds the step spent waiting for its images.
    pub(super) fn waited(mut self, seconds: f64) -> Self {
        self.report.waited = seconds;
        self
    }

    /// Whether a GPU computes it, so that its report may not be ready.
    pub(super) fn on_gpu(&self) -> bool {
        self.on_gpu
    }

    /// Waits until the device has finished the backward passes, and returns the report.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] if the loss or the gradient norm is not finite; else it fails only if the device does.
    pub fn wait(mut self) -> Result<StepReport> {
        self.read()?;
        Ok(self.report)
    }

    pub(super) fn read(&mut self) -> Result<()> {
        let Some(coming) = self.coming.take() else {
            return Ok(());
        };
        let report = &mut self.report;
        coming.scalars.read(report, coming.share)?;
        report.grad_norm = coming.squares.wait()?.iter().sum::<f64>().sqrt();
        let terms = report.terms.iter().filter(|(_, value)| !value.is_finite());
        let terms: Vec<_> = terms.map(|(name, _)| name.as_str()).collect();
        let loss = match terms.is_empty() {
            true => "the loss".to_owned(),
            false => format!("the loss ({})", terms.join(", ")),
        };
        finite(loss, report.loss, report.step)?;
        let norm = "the gradient norm".to_owned();
        finite(norm, report.grad_norm, report.step)
    }
}

/// The missing parts of a report.
#[derive(Debug)]
pub(super) struct PendingNumbers {
    pub(super) scalars: Means,
    /// Sums of squares of all gradients.
    pub(super) squares: AsyncDownload,
    /// Weight of a micro-batch.
    pub(super) share: f64,
}

/// Losses and their terms, still on the device, so that the host does not wait within the passes.
#[derive(Default)]
pub(super) struct Scalars {
    /// Name of a term; `None` for the loss.
    values: Vec<(Option<String>, Tensor)>,
    metrics: Vec<(String, f64)>,
}

/// Losses, terms and metrics over all processes.
#[derive(Debug)]
pub(super) struct Means {
    names: Vec<Option<String>>,
    values: AsyncDownload,
}

impl Scalars {
    /// Adds those of one micro-batch.
    pub(super) fn note(&mut self, terms: &LossTerms, total: &Tensor) {
        self.values.push((None, total.detach()));
        for (name, value, _) in terms.terms() {
            self.values.push((Some(name.clone()), value.detach()));
        }
        self.metrics.extend(terms.metrics().iter().cloned());
    }

    #[expect(clippy::cast_possible_truncation, reason = "numbers for a log")]
    pub(super) fn mean(self, comm: &dyn Communicator) -> Result<Means> {
        let (mut names, values): (Vec<_>, Vec<_>) = self.values.into_iter().unzip();
        let mut values = Tensor::stack(&values, 0)?;
        if !self.metrics.is_empty() {
            let metrics: Vec<f32> = self
                .metrics
                .iter()
                .map(|(_, value)| *value as f32)
                .collect();
            let count = metrics.len();
            values = Tensor::cat(&[&values, &upload(metrics, count, values.device())?], 0)?;
            names.extend(self.metrics.into_iter().map(|(name, _)| Some(name)));
        }
        if comm.world() > 1 {
            values = comm.all_reduce(&values, Reduce::Mean)?;
        }
        let values = AsyncDownload::new(&values)?;
        Ok(Means { names, values })
    }
}

impl Means {
    /// Adds the micro-batches' shares to the means of the report.
    fn read(self, report: &mut StepReport, share: f64) -> Result<()> {
        for (name, value) in self.names.into_iter().zip(self.values.wait()?) {
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

/// Checks a number of the report after `step` steps.
fn finite(what: String, value: f64, steps: usize) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::NonFinite {
        what: what.into(),
        step: steps - 1,
        fix: "lower the learning rate, lengthen the warm-up or clip gradients, then resume from the last checkpoint".into(),
    })
}
