//! The classifier trait: images to classes.

use candle_core::Tensor;

use crate::{Result, StepContext};

/// Scores the classes of images: an encoder and a head that were trained with labels.
pub trait Classifier: Send + Sync {
    /// Number of classes.
    fn classes(&self) -> usize;

    /// The logits `[batch, classes]` of images `[batch, channels, height, width]` (normalised).
    ///
    /// # Errors
    ///
    /// If the images do not fit the encoder.
    fn logits(&self, images: &Tensor, step: &StepContext) -> Result<Tensor>;
}
