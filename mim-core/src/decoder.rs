//! The decoder trait: tokens to predictions.

use crate::{Batch, Encoded, Error, Mask, Prediction, Result, StepContext};

/// Input of a decoder.
#[derive(Debug, Clone, Copy)]
pub struct DecodeContext<'a> {
    /// The encoder's output.
    pub encoded: &'a Encoded,
    /// The mask that the encoder used.
    pub mask: &'a Mask,
    /// The whole batch, with its crops and extras.
    pub batch: &'a Batch,
    /// The current training step.
    pub step: &'a StepContext,
}

impl DecodeContext<'_> {
    /// Refuses an encoder that dropped patches, for a `decoder` that reads tokens of hidden patches.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] unless there is a token for every patch.
    pub fn needs_all(&self, decoder: &'static str) -> Result<()> {
        let Encoded { prefix, grid, .. } = self.encoded;
        if self.encoded.tokens.dim(1)? == prefix + grid.len() {
            return Ok(());
        }
        Err(Error::unsupported(
            format!("{decoder} after an encoder that drops patches"),
            "it also reads the tokens of hidden patches",
            "replace or paint hidden patches (MaskMode::Replace, MaskMode::Paint), or use MAE's decoder",
        ))
    }

    /// Refuses an encoder that saw hidden patches, for a `decoder` with its own mask tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] unless there is a token for every visible patch and no other.
    pub fn needs_visible(&self, decoder: &'static str) -> Result<()> {
        let patches = self.encoded.tokens.dim(1)? - self.encoded.prefix;
        if self.mask.constant_keep() == Some(patches) {
            return Ok(());
        }
        Err(Error::unsupported(
            format!("{decoder} after an encoder that saw the hidden patches"),
            "it must predict them from the visible patches",
            "drop them (MaskMode::Drop), or use a linear or light decoder",
        ))
    }
}

/// Predicts values for some tokens; [`Prediction::rows`] says for which.
///
/// Under a trace (`step.trace`) a decoder predicts all patches in image order, so that whole
/// images can be compared and drawn. Objectives give the same loss either way.
///
/// ```
/// # use candle_core::{DType, Device, Tensor};
/// # use mim_core::params::{Init, ParamStore};
/// # use mim_core::{Batch, Encoded, Mask, PatchGrid, StepContext, View};
/// use mim_core::nn::Linear;
/// use mim_core::{DecodeContext, Decoder, Prediction, Result, Rows};
///
/// /// Each patch from its own token, by one linear layer.
/// struct OneLayer(Linear);
///
/// impl Decoder for OneLayer {
///     fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
///         cx.needs_all("one layer")?;
///         let values = self.0.forward(&cx.encoded.patches()?)?;
///         Ok(Prediction { values, rows: Rows::Patches, grid: cx.encoded.grid })
///     }
/// }
///
/// # fn main() -> Result<()> {
/// # let store = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(12));
/// # let (grid, step) = (PatchGrid::new(2, 2), StepContext::new(0));
/// # let tokens = Tensor::zeros((1, 1 + 4, 8), DType::F32, &Device::Cpu)?;
/// # let encoded = Encoded { tokens, prefix: 1, layers: vec![], cls_attention: None, grid };
/// # let mask = Mask::from_bits(grid, &[1, 0, 0, 1])?;
/// # let batch = Batch::single(View::new(Tensor::zeros((1, 3, 4, 4), DType::U8, &Device::Cpu)?, vec![])?);
/// // `encoded` holds a class token and 2 x 2 patches of width 8.
/// let decoder = OneLayer(Linear::new(&store.root().pp("decoder"), 8, 12)?);
/// let cx = DecodeContext { encoded: &encoded, mask: &mask, batch: &batch, step: &step };
/// assert_eq!(decoder.decode(&cx)?.values.dims(), [1, 4, 12]);
/// # Ok(())
/// # }
/// ```
pub trait Decoder: Send + Sync {
    /// Encoder blocks whose outputs this decoder reads.
    fn layers(&self) -> &[usize] {
        &[]
    }

    /// Predicts values for some tokens.
    ///
    /// # Shapes
    ///
    /// - [`Encoded::tokens`] of `cx.encoded`: `[rows, prefix + tokens, dim]`, one row per row of the mask
    /// - [`Prediction::values`]: `[rows, predicted tokens, C]`; `[images, C]` for [`Rows::Image`](crate::Rows::Image); flat
    ///   `[total, C]` if the rows predict different numbers of tokens
    ///
    /// # Errors
    ///
    /// If the encoder's output does not match this decoder.
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
