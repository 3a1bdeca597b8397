//! Runs of several stages.

use super::Trainer;
use crate::schedule::Schedule;
use crate::train::{Observer, TrainConfig};
use crate::{Error, Method, Result};

/// Checks that the run reaches the last stage of the method.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if the stages do not ascend from 0, or the run ends before the last one.
pub(super) fn check(method: &dyn Method, config: &TrainConfig) -> Result<()> {
    let starts = method.stages();
    let ascends = starts.first() == Some(&0) && starts.windows(2).all(|pair| pair[0] < pair[1]);
    let last = starts.last().copied().unwrap_or_default();
    let (field, value, why, fix) = if !ascends {
        let why = "stages must begin at ascending epochs, the first at 0".to_owned();
        ("stages", format!("{starts:?}"), why, "give such epochs")
    } else if last >= config.epochs {
        let why = format!("the last stage of {} begins at epoch {last}", method.name());
        let fix = "train longer, or let the stages begin earlier";
        ("epochs", config.epochs.to_string(), why, fix)
    } else {
        return Ok(());
    };
    Err(Error::config("train", field, value, why, fix))
}

/// The learning rate of every step; its schedule restarts at each stage of the method.
pub(super) fn learning_rate(method: &dyn Method, config: &TrainConfig, world: usize) -> Schedule {
    let whole = config.lr(method.batch_factor(), world);
    match (method.stages(), whole) {
        ([] | [_], whole) | (_, whole @ Schedule::Staged { .. }) => whole,
        (starts, whole) => Schedule::Staged {
            starts: starts.to_vec(),
            inner: Box::new(whole),
        },
    }
}

impl Trainer {
    /// Shows the observer the result of a stage, if one ends with this epoch and another follows.
    pub(super) fn report_stage(&self, observer: &mut dyn Observer) {
        let next = self.state.epoch + 1;
        let starts = self.method.stages();
        if let (true, Some(stage)) = (
            self.writes(),
            starts.iter().position(|start| *start == next),
        ) {
            observer.stage(stage - 1, self.method.as_ref());
        }
    }
}
