//! What of a Swin transformer follows the size of the images: windows, shift masks, merged tokens.

use candle_core::{Device, Tensor};

use super::SwinConfig;
use super::merging::merged_tokens;
use crate::nn::Windows;
use crate::{Error, ImageSize, Result};

/// One stage at one size; parameters are not among it.
#[derive(Debug, Clone)]
pub(super) struct StageLayout {
    windows: [Windows; 2],
    shift_mask: Option<Tensor>,
    pub(super) merged: Vec<u32>,
}

impl StageLayout {
    /// All stages for images of `size`, on the network of `config`.
    ///
    /// # Errors
    ///
    /// As [`fitted`].
    pub(super) fn all(config: &SwinConfig, size: ImageSize, device: &Device) -> Result<Vec<Self>> {
        let config = fitted(config, size)?;
        let stage = |stage: usize| {
            let grid = config.stage_grid(stage)?;
            let (side, shift) = config.stage_window(stage)?;
            let windows = [
                Windows::new(grid, side, 0)?,
                Windows::new(grid, side, shift)?,
            ];
            Ok(Self {
                shift_mask: windows[1].shift_mask(device)?,
                merged: merged_tokens(grid),
                windows,
            })
        };
        (0..config.stages()).map(stage).collect()
    }

    /// The windows of a block, and what is added to its logits; every other block is `shifted`.
    pub(super) fn windows(&self, shifted: bool) -> (&Windows, Option<&Tensor>) {
        let mask = self.shift_mask.as_ref().filter(|_| shifted);
        (&self.windows[usize::from(shifted)], mask)
    }
}

/// `config` for images of another size, on which all of its stages are whole windows of the sides that
/// its relative position tables were made for.
///
/// # Errors
///
/// [`Error::InvalidConfig`] or [`Error::Shape`] naming the first stage that does not fit.
pub(super) fn fitted(config: &SwinConfig, size: ImageSize) -> Result<SwinConfig> {
    let other = SwinConfig {
        image_size: size,
        ..config.clone()
    };
    for stage in 0..config.stages() {
        other.validate_windows(stage)?;
        let (own, side) = (config.stage_window(stage)?.0, other.stage_window(stage)?.0);
        if own != side {
            let at = config.image_size;
            return Err(Error::shape(
                "images for Swin",
                format!("windows of {own}x{own} tokens in stage {stage}, as at {at} pixels"),
                format!("{side}x{side} at {size} pixels"),
                "give larger images or change encoder.image_size",
            ));
        }
    }
    Ok(other)
}
