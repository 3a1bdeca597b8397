//! What the settings of a target do.

use std::fmt;

use mim_core::augment::ViewPlan;
use mim_core::encoders::EncoderSettings;
use mim_core::objectives::{ObjectiveSettings, RegressionConfig};
use mim_core::ops::PatchOrder;
use mim_core::params::{Ema, ParamStore};
use mim_core::parts::Settings;
use mim_core::{Norm, Result};

use crate::TargetGenerator;

/// The method that a target becomes a part of.
#[derive(Debug, Clone, Copy)]
pub struct TargetContext<'a> {
    /// The weights that are trained.
    pub student: &'a ParamStore,
    /// The encoder that is trained.
    pub encoder: &'a dyn EncoderSettings,
    /// Normalisation of the images that the encoder sees.
    pub norm: &'a Norm,
    /// Whether the masker follows the target's attention.
    pub attention: bool,
}

/// A target, and what the method must know of it.
pub struct BuiltTarget {
    /// The generator.
    pub generator: Box<dyn TargetGenerator>,
    /// Values of a token of the encoder's output.
    pub values: usize,
    /// If they are cells (pixels, histograms): their order and their channels.
    pub cells: Option<(PatchOrder, usize)>,
    /// A momentum teacher, whose weights the method saves and updates.
    pub teacher: Option<(ParamStore, Ema)>,
    /// A line for reports of a run: who teaches, if it is no part of the method.
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
    /// A target of `values` values a token, which are no cells, without a teacher.
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

/// Settings of a target that a config can name.
pub trait TargetSettings: Settings {
    /// Checks the settings and builds the target.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] naming the setting; else if weights cannot be read or do not fit.
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget>;

    /// The objective that suits the target. Default: the mean squared error of hidden patches.
    fn objective(&self) -> Box<dyn ObjectiveSettings> {
        Box::new(RegressionConfig::default())
    }

    /// The augmentation that suits the target. Default: MAE's.
    ///
    /// # Errors
    ///
    /// If the settings of the encoder do not hold.
    fn views(&self, encoder: &dyn EncoderSettings) -> Result<ViewPlan> {
        let size = <(usize, usize)>::from(encoder.image_size());
        Ok(ViewPlan::mae(size))
    }
}
