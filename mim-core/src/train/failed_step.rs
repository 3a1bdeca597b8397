//! The record of a step whose loss or gradient norm was not finite.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::{Error, Result, files};

/// The folder in a run folder.
const FOLDER: &str = "non_finite";
/// The file in it, next to a checkpoint if one was saved.
const FILE: &str = "step.json";

/// An image of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchImage {
    /// Its index in the data set.
    pub index: u32,
    /// Its path, or another name from the data set.
    pub name: String,
}

/// A step whose loss or gradient norm was not finite, from `non_finite/step.json` in a run folder.
///
/// All draws of a step follow from seed, rank and position. So [`Trainer::replay`](super::Trainer::replay) needs only this,
/// the settings of the run, and the parameters before the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailedStep {
    /// What was not finite: the loss or the gradient norm.
    pub what: String,
    /// Optimizer steps before it.
    pub step: usize,
    /// Its epoch, from 0.
    pub epoch: usize,
    /// Its position in the epoch, from 0.
    pub iter: usize,
    /// The seed of the run.
    pub seed: u64,
    /// Number of processes.
    pub world: usize,
    /// Its learning rate.
    pub lr: f64,
    /// Whether the parameters before the step are saved next to this file, as a checkpoint. On GPUs the failure is noticed
    /// one step late, when they have already changed; a replay then starts from a checkpoint of the run.
    pub kept: bool,
    /// The images of each micro-batch of rank 0, in order.
    pub batches: Vec<Vec<BatchImage>>,
}

impl FailedStep {
    /// The failed step of a run folder.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the run has none, or the file is damaged.
    pub fn open(run: &Path) -> Result<Self> {
        let path = Self::folder(run).join(FILE);
        let Some(text) = files::read_if_there(&path)? else {
            let what = "the run has no step whose loss or gradient norm was not finite";
            let fix = "give the folder of a run that ended with such an error";
            return Err(Error::format(run, what, fix));
        };
        serde_json::from_slice(&text).map_err(|error| {
            let fix = "let the run fail once more: resume it with --resume auto";
            Error::format(&path, error.to_string(), fix)
        })
    }

    /// Its path in a run folder.
    pub fn folder(run: &Path) -> PathBuf {
        run.join(FOLDER)
    }

    /// Writes the file.
    pub(super) fn write(&self, run: &Path) -> Result<()> {
        let folder = Self::folder(run);
        files::create_folder(&folder)?;
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::format(&path, error.to_string(), "report this as a bug"))?;
        files::write(&path, text)
    }
}

/// The images of a batch by index and name.
pub(super) fn named(dataset: &dyn Dataset, indices: &[u32]) -> Vec<BatchImage> {
    let image = |index: &u32| BatchImage {
        index: *index,
        name: dataset.name_of(*index as usize),
    };
    indices.iter().map(image).collect()
}
