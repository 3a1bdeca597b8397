//! Observers of a run.

use std::collections::BTreeMap;

use super::EpochRecord;
use crate::Method;

/// The results of an optimizer step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Optimizer steps done since the start of the run.
    pub step: usize,
    /// Optimizer steps of the whole run.
    pub total: usize,
    /// The epoch, from 0.
    pub epoch: usize,
    /// Total loss.
    pub loss: f64,
    /// Loss terms and metrics by name.
    pub terms: Vec<(String, f64)>,
    /// Learning rate.
    pub lr: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Number of images in the step.
    pub images: usize,
    /// Seconds that the step spent waiting for its images.
    pub waited: f64,
}

/// Watches a run and may end it. `()` does nothing.
///
/// ```
/// use mim_core::train::{Observer, StepReport};
///
/// /// Ends the run once the loss is low enough.
/// struct Until {
///     wanted: f64,
///     reached: bool,
/// }
///
/// impl Observer for Until {
///     fn step(&mut self, report: &StepReport) {
///         self.reached = report.loss <= self.wanted;
///     }
///
///     fn stop(&self) -> bool {
///         self.reached
///     }
/// }
///
/// let mut until = Until { wanted: 0.5, reached: false };
/// let report = |loss| StepReport {
///     step: 1,
///     total: 100,
///     epoch: 0,
///     loss,
///     terms: vec![],
///     lr: 1e-3,
///     grad_norm: 1.,
///     images: 64,
///     waited: 0.,
/// };
/// until.step(&report(0.6));
/// assert!(!until.stop());
/// until.step(&report(0.4));
/// assert!(until.stop());
/// ```
pub trait Observer {
    /// Called after each optimizer step; a GPU already computes the next one.
    fn step(&mut self, _report: &StepReport) {}

    /// Called after each epoch, before it is logged. Returns further figures by name for the log and the event file. It must
    /// not change the method.
    fn measure(&mut self, _method: &dyn Method, _epoch: usize) -> BTreeMap<String, f64> {
        BTreeMap::new()
    }

    /// Called after each epoch.
    fn epoch(&mut self, _record: &EpochRecord) {}

    /// Called after each epoch. Returns whether to save the weights in `best`, where they replace earlier ones.
    fn keeps(&self) -> bool {
        false
    }

    /// Called after the last step of each stage except the last one ([`Method::stages`]), while `method` still holds its
    /// result; only in the process that writes the run folder.
    fn stage(&mut self, _stage: usize, _method: &dyn Method) {}

    /// Called after each step. If it returns true, the run writes a checkpoint and ends; on a GPU it first finishes the step
    /// in progress.
    fn stop(&self) -> bool {
        false
    }
}

impl Observer for () {}
