//! Patch embedding.

use candle_core::Tensor;

use crate::ops::{self, PatchOrder};
use crate::params::Params;
use crate::{Mask, PatchGrid, Result};

/// A convolution with kernel and stride `patch_size`, applied patch by patch (ViT: Dosovitskiy et al., ICLR 2021,
/// Sec. 3.1).
///
/// Only the needed patches are embedded. Images that track gradients get them, such as the painted images of
/// [`PixelMasked`](crate::encoders::PixelMasked); for plain images nothing is computed.
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
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, patch_size: usize, in_channels: usize, dim: usize) -> Result<Self> {
        let proj = params.pp("proj");
        let weight = proj.weight(&[dim, in_channels, patch_size, patch_size], "weight")?;
        Ok(Self {
            weight,
            bias: Some(proj.weight(&[dim], "bias")?),
            patch_size,
        })
    }

    /// As [`PatchEmbed::new`], without `proj.bias` (CLIP).
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
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
    /// If a side is not a multiple of the patch size.
    pub fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        PatchGrid::of_image(image, self.patch_size)
    }

    /// Tokens `[batch, tokens, dim]` of `images` `[batch, channels, height, width]`.
    ///
    /// # Errors
    ///
    /// If the shape of the images does not match.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.embed(&self.patches(images)?)
    }

    /// Tokens of the visible patches only, `[mask rows, keep, dim]`, in the mask's order.
    ///
    /// # Errors
    ///
    /// If the shape of the images does not match, or rows of the mask have different counts.
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
