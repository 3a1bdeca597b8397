//! The encoder trait: images to tokens, with or without a mask.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Error, Mask, PatchGrid, Result, StepContext};

/// How hidden patches are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskMode {
    /// They do not enter the encoder (MAE).
    Drop,
    /// A trained mask token replaces them (BEiT, SimMIM).
    Replace,
    /// Their pixels are painted in a trained colour, before any encoder (FastMIM): the encoder is a
    /// [`PixelMasked`](crate::encoders::PixelMasked).
    Paint,
    /// All patches enter; each sees the class token, itself and earlier patches in the mask's order (SAIM).
    Causal,
}

impl MaskMode {
    /// The mask in the form that the encoder takes.
    pub fn masking(self, mask: &Mask) -> Masking<'_> {
        match self {
            Self::Drop => Masking::Drop(mask),
            Self::Replace | Self::Paint => Masking::Replace(mask),
            Self::Causal => Masking::Causal(mask),
        }
    }
}

/// A mask, and how the encoder applies it.
#[derive(Debug, Clone, Copy)]
pub enum Masking<'a> {
    /// All patches, nothing hidden: features for probes and teachers.
    None,
    /// Only the visible patches enter (MAE).
    Drop(&'a Mask),
    /// All patches enter; a trained mask token replaces hidden ones (BEiT, SimMIM).
    Replace(&'a Mask),
    /// All patches enter; each sees the class token, itself and earlier patches in the mask's order (SAIM).
    Causal(&'a Mask),
}

impl<'a> Masking<'a> {
    /// The mask, if any.
    pub fn mask(&self) -> Option<&'a Mask> {
        match self {
            Self::None => None,
            Self::Drop(mask) | Self::Replace(mask) | Self::Causal(mask) => Some(mask),
        }
    }
}

/// Optional outputs of an encoder, computed only on request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Blocks (from 0) whose outputs to return, before the final norm; [`EncodeOptions::INPUT`] for the input of the
    /// first block.
    pub layers: Vec<usize>,
    /// Whether to return the class token's attention in the last block.
    pub cls_attention: bool,
    /// Whether to skip the final norm, and the projection that follows it.
    pub skip_norm: bool,
}

impl EncodeOptions {
    /// In [`EncodeOptions::layers`], means the input of the first block; a plain ViT provides it (CrossMAE).
    pub const INPUT: usize = usize::MAX;
}

/// Output of an encoder.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[rows, prefix + tokens, dim]`.
    pub tokens: Tensor,
    /// Number of class tokens in front: usually 0 or 1.
    pub prefix: usize,
    /// Requested block outputs, `[rows, prefix + tokens, dim]`, before the final norm; in encoders
    /// with stages, they have the tokens and the width of the block's stage.
    pub layers: Vec<(usize, Tensor)>,
    /// Attention of the (first) class token in the last block, `[rows, heads, tokens]`.
    pub cls_attention: Option<Tensor>,
    /// The grid of the tokens.
    pub grid: PatchGrid,
}

impl Encoded {
    /// The patch tokens `[rows, tokens, dim]`, without the class token.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn patches(&self) -> Result<Tensor> {
        Ok(self
            .tokens
            .narrow(1, self.prefix, self.tokens.dim(1)? - self.prefix)?)
    }

    /// The patch tokens after block `index`, `[rows, tokens, dim]`.
    ///
    /// # Errors
    ///
    /// As [`Encoded::layer`].
    pub fn layer_patches(&self, index: usize) -> Result<Tensor> {
        let xs = self.layer(index)?;
        Ok(xs.narrow(1, self.prefix, xs.dim(1)? - self.prefix)?)
    }

    /// The class token `[rows, dim]`, if the encoder has one; the mean of several (Pixio).
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn cls(&self) -> Result<Option<Tensor>> {
        match self.prefix {
            0 => Ok(None),
            1 => Ok(Some(self.tokens.narrow(1, 0, 1)?.squeeze(1)?)),
            several => Ok(Some(self.tokens.narrow(1, 0, several)?.mean(1)?)),
        }
    }

    /// The output of block `index`, or the input of the first block ([`EncodeOptions::INPUT`]).
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if it was not requested.
    pub fn layer(&self, index: usize) -> Result<&Tensor> {
        self.layers
            .iter()
            .find(|(layer, _)| *layer == index)
            .map(|(_, xs)| xs)
            .ok_or_else(|| {
                let what = match index {
                    EncodeOptions::INPUT => "reading the input of the first block".to_owned(),
                    index => format!("reading block {index}"),
                };
                Error::unsupported(
                    what,
                    "the encoder does not have it, or it was not requested",
                    "list an existing block in EncodeOptions::layers or Decoder::layers",
                )
            })
    }
}

/// Maps images to tokens.
///
/// The encoders of this crate are in [`encoders`](crate::encoders). Each of them accepts the calls below, or returns an error
/// that says what it does not support.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mim_core::encoders::{Vit, VitConfig};
/// use mim_core::params::{Init, ParamStore};
/// use mim_core::{EncodeOptions, Encoder, Mask, Masking, StepContext};
///
/// let store = ParamStore::new(&Device::Cpu, 0, Init::default().build(4 * 4 * 3));
/// let vit = Vit::new(&store.root(), &VitConfig::small())?;
/// let images = Tensor::randn(0f32, 1., (2, 3, 32, 32), &Device::Cpu)?;
/// let (want, step) = (EncodeOptions::default(), StepContext::new(0));
///
/// // All patches, for features: a class token and 8 x 8 patches.
/// let features = vit.encode(&images, Masking::None, &want, &step)?;
/// assert_eq!(features.tokens.dims(), [2, 1 + 64, vit.dim()]);
///
/// // Only the left half enters, as in MAE.
/// let hidden: Vec<u8> = (0..64).map(|patch| u8::from(patch % 8 >= 4)).collect();
/// let mask = Mask::from_bits(vit.grid((32, 32))?, &hidden.repeat(2))?;
/// let visible = vit.encode(&images, Masking::Drop(&mask), &want, &step)?;
/// assert_eq!(visible.patches()?.dims(), [2, 32, vit.dim()]);
/// # Ok::<(), mim_core::Error>(())
/// ```
pub trait Encoder: Send + Sync {
    /// Width of the tokens.
    fn dim(&self) -> usize;

    /// The encoder for downstream tasks: `self`, unless this encoder wraps another one.
    fn trunk(&self) -> &dyn Encoder;

    /// The token grid of the output for an image of (height, width) pixels.
    ///
    /// # Errors
    ///
    /// If the encoder does not support this size.
    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid>;

    /// Number of channels of its images; `None` if it does not say.
    fn in_channels(&self) -> Option<usize> {
        None
    }

    /// Encodes normalised images to tokens.
    ///
    /// A mask with several rows per image (`k * batch`, copy-major) gives as many rows of tokens; each image is embedded
    /// once. Encoders whose first grid is finer than their output also take masks on the grids in between.
    ///
    /// # Shapes
    ///
    /// - `image`: `[batch, channels, height, width]` f32; for point clouds `[batch, points, 3]`
    /// - [`Encoded::tokens`]: `[batch, prefix + tokens, dim]` without a mask and with [`Masking::Replace`] or
    ///   [`Masking::Causal`], where `batch` becomes the rows of the mask; `[mask rows, prefix + visible, dim]` with
    ///   [`Masking::Drop`]
    ///
    /// # Errors
    ///
    /// If image or mask do not match the encoder, or it does not support a request.
    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded>;
}

impl<T: Encoder + ?Sized> Encoder for Box<T> {
    fn dim(&self) -> usize {
        (**self).dim()
    }

    fn trunk(&self) -> &dyn Encoder {
        (**self).trunk()
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        (**self).grid(image)
    }

    fn in_channels(&self) -> Option<usize> {
        (**self).in_channels()
    }

    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        (**self).encode(image, masking, want, step)
    }
}
