//! The settings trait of targets.

use std::fmt;

use mim_core::augment::ViewPlan;
use mim_core::encoders::EncoderSettings;
use mim_core::objectives::{ObjectiveSettings, RegressionConfig};
use mim_core::ops::PatchOrder;
use mim_core::params::{Ema, ParamStore};
use mim_core::parts::Settings;
use mim_core::{Norm, Result};

use crate::TargetGenerator;

/// The method that a target is built for.
#[derive(Debug, Clone, Copy)]
pub struct TargetContext<'a> {
    /// The trained weights.
    pub student: &'a ParamStore,
    /// The trained encoder.
    pub encoder: &'a dyn EncoderSettings,
    /// Normalisation of the encoder's images.
    pub norm: &'a Norm,
    /// Whether the target's attention guides the masker.
    pub attention: bool,
}

/// A target, with what the method must know about it.
pub struct BuiltTarget {
    /// The generator.
    pub generator: Box<dyn TargetGenerator>,
    /// Number of values per token of the encoder's output.
    pub values: usize,
    /// If they are cells (pixels, histograms): their order and number of channels.
    pub cells: Option<(PatchOrder, usize)>,
    /// A momentum teacher; the method saves and updates its weights.
    pub teacher: Option<(ParamStore, Ema)>,
    /// A note for reports of a run: the teacher, if it is not part of the method.
    pub note: Option<String>,
}

impl fmt::Debug for BuiltTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltTarget")
            .field("values", &self.values)
            .field("cells", &self.cells)
            .field("note", &self.note)
            .finish_non_exhaustive()
    }
}

impl BuiltTarget {
    /// A target with `values` values per token that are not cells, without a teacher.
    pub fn new(generator: impl TargetGenerator + 'static, values: usize) -> Self {
        Self {
            generator: Box::new(generator),
            values,
            cells: None,
            teacher: None,
            note: None,
        }
    }
}

/// Settings of a target, as named in a config.
pub trait TargetSettings: Settings {
    /// Checks the settings and builds the target.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] naming the setting; otherwise if weights cannot be read or do not match.
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget>;

    /// The default objective of the target. Default: the mean squared error of hidden patches.
    fn objective(&self) -> Box<dyn ObjectiveSettings> {
        Box::new(RegressionConfig::default())
    }

    /// The default augmentation of the target. Default: MAE's.
    ///
    /// # Errors
    ///
    /// If a setting of the encoder is invalid.
    fn views(&self, encoder: &dyn EncoderSettings) -> Result<ViewPlan> {
        let size = <(usize, usize)>::from(encoder.image_size());
        Ok(ViewPlan::mae(size))
    }
}
