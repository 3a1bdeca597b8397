//! The parts learned by a finished run.

use std::path::Path;

use candle_core::Device;
use mim_core::params::ParamStore;
use mim_core::train::Checkpoint;
use mim_core::{Encoder, Error, Norm, Result, settings};
use mim_targets::{PartRule, PartTokens, TeacherParts};

use super::{NAME, SemMaePartsConfig};
use crate::frozen::settings_of;

/// Part tokens of a run, and the frozen network on which they were learned.
pub(crate) struct LearnedParts {
    teacher: Box<dyn Encoder>,
    norm: Norm,
    tokens: PartTokens,
}

impl LearnedParts {
    /// Opens the run in a folder, and its frozen network at the path that the run used.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if no run is given; [`Error::Unsupported`] for a run of another method; otherwise if a
    /// file cannot be read.
    pub(crate) fn open(path: &Path, device: &Device) -> Result<Self> {
        if path.as_os_str().is_empty() {
            let why = "part maps come from a run that learned them";
            let fix = "set it to the folder of a run of `mim pretrain --method semmae_parts`";
            return Err(Error::config(
                "semmae",
                "parts.checkpoint",
                "not set",
                why,
                fix,
            ));
        }
        let checkpoint = Checkpoint::open(path)?;
        let method = &checkpoint.state().method;
        if method != NAME {
            return Err(Error::unsupported(
                format!("parts of the run {}", path.display()),
                format!("{method} does not learn parts"),
                "give a run of `mim pretrain --method semmae_parts`, or choose parts.type = \"k_means\"",
            ));
        }
        let config: SemMaePartsConfig = settings::read(NAME, settings_of(&checkpoint, path)?)?;
        let (teacher, store) = (config.teacher.open(device)?, ParamStore::teacher(device));
        let tokens = PartTokens::new(&store.root(), teacher.dim(), config.num_parts)?;
        // The decoder is not needed.
        let weights = checkpoint.weights("student")?;
        store.load_allowing(&weights, |name| store.var(name).is_none())?;
        Ok(Self {
            teacher,
            norm: config.norm(),
            tokens,
        })
    }

    /// The part of each patch, or of the `retain` most attended ones.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if no patch is retained.
    pub(crate) fn target(self, retain: Option<usize>) -> Result<TeacherParts> {
        let rule = PartRule::Learned(self.tokens);
        TeacherParts::new(self.teacher, (0, self.norm), rule, retain)
    }
}
