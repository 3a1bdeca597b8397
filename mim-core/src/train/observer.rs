//! Who watches a run.

use std::collections::BTreeMap;

use super::EpochRecord;
use crate::Method;

/// What is known after an optimizer step.
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
    /// Images of the step.
    pub images: usize,
    /// Seconds that the step waited for its images.
    pub waited: f64,
}

/// Watches a run and may end it. `()` watches nothing.
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
/// ```
pub trait Observer {
    /// After each optimizer step; a GPU is at the next one by then.
    fn step(&mut self, _report: &StepReport) {}

    /// After each epoch, before it is logged: further figures, which go into the log and the event file by name. It
    /// must leave the method as it is.
    fn measure(&mut self, _method: &dyn Method, _epoch: usize) -> BTreeMap<String, f64> {
        BTreeMap::new()
    }

    /// After each epoch.
    fn epoch(&mut self, _record: &EpochRecord) {}

    /// Asked after each epoch: whether the weights are to be kept in `best`, in place of those that are there.
    fn keeps(&self) -> bool {
        false
    }

    /// After the last step of a stage but the last one ([`Method::stages`]), while `method` is what it has trained; in the
    /// process that writes the run folder.
    fn stage(&mut self, _stage: usize, _method: &dyn Method) {}

    /// Asked after each step; the run then writes a checkpoint and ends, on GPUs behind the step that is under way.
    fn stop(&self) -> bool {
        false
    }
}

impl Observer for () {}
