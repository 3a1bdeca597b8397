//! Runs and checkpoints as models.

use std::path::Path;

use candle_core::Device;
use mim_core::train::Checkpoint;
use mim_core::{Method, Result};

use crate::RunConfig;

/// A method with the weights of a checkpoint, and the settings of its run.
pub struct Pretrained {
    /// The settings of the run.
    pub config: RunConfig,
    /// The method.
    pub method: Box<dyn Method>,
    /// Optimizer steps it was trained for.
    pub step: usize,
}

impl Pretrained {
    /// Opens a checkpoint folder, or the newest checkpoint of a run folder.
    ///
    /// # Errors
    ///
    /// If there is no checkpoint, or it does not fit its own settings.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let config = RunConfig::from_json(&checkpoint.state().config)?;
        let method = config.build(device)?;
        checkpoint.load_method(method.as_ref())?;
        Ok(Self {
            config,
            method,
            step: checkpoint.state().step,
        })
    }
}

impl std::fmt::Debug for Pretrained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pretrained")
            .field("method", &self.method.name())
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}
