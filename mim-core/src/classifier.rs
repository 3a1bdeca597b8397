//! The classifier trait: images to classes.

use candle_core::Tensor;

use crate::{Result, StepContext};

/// Predicts class scores of images: an encoder and a head trained with labels.
pub trait Classifier: Send + Sync {
    /// Number of classes.
    fn classes(&self) -> usize;

    /// The logits `[batch, classes]` of images `[batch, channels, height, width]` (normalised).
    ///
    /// # Errors
    ///
    /// If the images do not match the encoder.
    fn logits(&self, images: &Tensor, step: &StepContext) -> Result<Tensor>;
}
