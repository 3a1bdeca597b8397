//! Patches to tokens.

use candle_core::Tensor;

use crate::ops::{self, PatchOrder};
use crate::params::Params;
use crate::{Mask, PatchGrid, Result};

/// A convolution of `patch_size` pixels and as much stride, applied to single patches.
///
/// Only the patches that are needed are embedded. Images get a gradient where they carry one, as
/// painted ones do ([`crate::encoders::PixelMasked`]); plain ones cost none.
#[derive(Debug, Clone)]
pub struct PatchEmbed {
    weight: Tensor,
    bias: Option<Tensor>,
    patch_size: usize,
}

impl PatchEmbed {
    /// Parameters `proj.weight` `[dim, channels, patch, patch]`, `proj.bias` `[dim]`.
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn new(params: &Params, patch_size: usize, in_channels: usize, dim: usize) -> Result<Self> {
        let proj = params.pp("proj");
        let weight = proj.weight(&[dim, in_channels, patch_size, patch_size], "weight")?;
        Ok(Self {
            weight,
            bias: Some(proj.weight(&[dim], "bias")?),
            patch_size,
        })
    }

    /// The same without `proj.bias` (CLIP).
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn no_bias(
        params: &Params,
        patch_size: usize,
        in_channels: usize,
        dim: usize,
    ) -> Result<Self> {
        let shape = [dim, in_channels, patch_size, patch_size];
        Ok(Self {
            weight: params.pp("proj").weight(&shape, "weight")?,
            bias: None,
            patch_size,
        })
    }

    /// The token grid of an image of (height, width) pixels.
    ///
    /// # Errors
    ///
    /// If a side is not a multiple of the patch.
    pub fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        PatchGrid::of_image(image, self.patch_size)
    }

    /// Tokens `[batch, tokens, dim]` of `images` `[batch, channels, height, width]`.
    ///
    /// # Errors
    ///
    /// If the images do not fit.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.embed(&self.patches(images)?)
    }

    /// Tokens of the visible patches only, `[mask rows, keep, dim]`, in the mask's order.
    ///
    /// # Errors
    ///
    /// If the images do not fit, or the mask's count varies.
    pub fn forward_visible(&self, images: &Tensor, mask: &Mask) -> Result<Tensor> {
        let patches = self.patches(images)?;
        let (batch, _, values) = patches.dims3()?;
        let ids = mask.flat(false, batch, images.device())?;
        let visible = patches.flatten(0, 1)?.index_select(&ids, 0)?;
        self.embed(&visible.reshape((mask.rows(), (), values))?)
    }

    fn patches(&self, images: &Tensor) -> Result<Tensor> {
        ops::patchify(images, self.patch_size, PatchOrder::ChannelsThenPixels)
    }

    fn embed(&self, patches: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(
            patches,
            &self.weight.flatten_from(1)?,
            self.bias.as_ref(),
        )?)
    }
}
