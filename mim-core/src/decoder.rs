//! The decoder trait: tokens to predictions.

use crate::{Batch, Encoded, Mask, Prediction, Result, StepContext};

/// What a decoder sees.
#[derive(Debug, Clone, Copy)]
pub struct DecodeContext<'a> {
    /// The encoder's output.
    pub encoded: &'a Encoded,
    /// The mask the encoder worked under.
    pub mask: &'a Mask,
    /// The whole batch, with its crops and extras.
    pub batch: &'a Batch,
    /// Where training stands.
    pub step: &'a StepContext,
}

/// Predicts something for some tokens, and says for which ([`Prediction::rows`]).
///
/// Under a trace (`step.trace`) a decoder predicts all patches in image order, so that whole
/// images can be compared and drawn; objectives give the same loss either way.
pub trait Decoder: Send + Sync {
    /// Blocks of the encoder whose outputs this decoder reads.
    fn layers(&self) -> &[usize] {
        &[]
    }

    /// Predicts.
    ///
    /// # Errors
    ///
    /// If the encoder's output does not fit this decoder.
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction>;
}

impl<T: Decoder + ?Sized> Decoder for Box<T> {
    fn layers(&self) -> &[usize] {
        (**self).layers()
    }

    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        (**self).decode(cx)
    }
}
