//! The decoder trait: tokens to predictions.

use crate::{Batch, Encoded, Error, Mask, Prediction, Result, StepContext};

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

impl DecodeContext<'_> {
    /// Refuses an encoder that dropped patches: `decoder` reads the tokens of hidden ones.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there is not a token for every patch.
    pub fn needs_all(&self, decoder: &'static str) -> Result<()> {
        let Encoded { prefix, grid, .. } = self.encoded;
        if self.encoded.tokens.dim(1)? == prefix + grid.len() {
            return Ok(());
        }
        Err(Error::unsupported(
            format!("{decoder} behind an encoder that drops patches"),
            "it reads the tokens of hidden ones, too",
            "replace hidden patches (MaskMode::Replace) or paint them over, or use MAE's decoder",
        ))
    }

    /// Refuses an encoder that saw hidden patches: `decoder` has tokens of its own for them.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there is not a token for every visible patch alone.
    pub fn needs_visible(&self, decoder: &'static str) -> Result<()> {
        let patches = self.encoded.tokens.dim(1)? - self.encoded.prefix;
        if self.mask.constant_keep() == Some(patches) {
            return Ok(());
        }
        Err(Error::unsupported(
            format!("{decoder} behind an encoder that saw the hidden patches"),
            "it predicts them from the visible ones",
            "drop them (MaskMode::Drop), or use a linear or light decoder",
        ))
    }
}

/// Predicts something for some tokens, and says for which ([`Prediction::rows`]).
///
/// Under a trace (`step.trace`) a decoder predicts all patches in image order, so that whole
/// images can be compared and drawn; objectives give the same loss either way.
///
/// ```
/// use mim_core::nn::Linear;
/// use mim_core::{DecodeContext, Decoder, Prediction, Result, Rows};
///
/// /// Each patch from its own token, by one affine map.
/// struct OneLayer(Linear);
///
/// impl Decoder for OneLayer {
///     fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
///         cx.needs_all("one layer")?;
///         let values = self.0.forward(&cx.encoded.patches()?)?;
///         Ok(Prediction { values, rows: Rows::Patches, grid: cx.encoded.grid })
///     }
/// }
/// ```
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
