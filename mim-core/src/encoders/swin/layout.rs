//! Windows and merging of a Swin stage on one grid.

use candle_core::{Device, Tensor};

use super::{SwinConfig, merging};
use crate::nn::Windows;
use crate::{Error, ImageSize, PatchGrid, Result};

/// Windows and merging of one stage on one grid.
#[derive(Debug, Clone)]
pub(super) struct StageLayout {
    plain: Windows,
    shifted: Windows,
    shift_mask: Option<Tensor>,
    /// Ids of the tokens merged into each token of the next stage, from [`merging::order`].
    pub(super) merging: Vec<u32>,
}

impl StageLayout {
    /// One layout per stage, for images of (height, width) pixels. With padding, window sizes are those of the
    /// configured image size; otherwise they follow from the new grids.
    ///
    /// # Errors
    ///
    /// As [`fitted`].
    pub(super) fn all(
        config: &SwinConfig,
        image: (usize, usize),
        device: &Device,
    ) -> Result<Vec<Self>> {
        let config = fitted(config, image)?;
        (0..config.stages())
            .map(|stage| Self::new(&config, stage, config.grid_of(image, stage)?, device))
            .collect()
    }

    fn new(config: &SwinConfig, stage: usize, grid: PatchGrid, device: &Device) -> Result<Self> {
        let (side, shift) = config.stage_window(stage)?;
        let windows = |shift: usize| match config.pad {
            true => Windows::padded(grid, side, shift),
            false => Windows::new(grid, side, shift),
        };
        let shifted = windows(shift)?;
        Ok(Self {
            plain: windows(0)?,
            shift_mask: shifted.shift_mask(device)?,
            shifted,
            merging: merging::order(grid),
        })
    }

    /// The windows of an even or odd block, and the mask that separates rolled tokens.
    pub(super) fn windows(&self, odd: bool) -> (&Windows, Option<&Tensor>) {
        match odd {
            true => (&self.shifted, self.shift_mask.as_ref()),
            false => (&self.plain, None),
        }
    }
}

/// `config` for images of another size. Without padding, all stages must have whole windows there, with the
/// sides of the relative position tables.
///
/// # Errors
///
/// [`Error::InvalidConfig`] or [`Error::Shape`] naming the first stage that does not fit.
pub(super) fn fitted(config: &SwinConfig, (height, width): (usize, usize)) -> Result<SwinConfig> {
    let size = ImageSize { height, width };
    if config.pad || size == config.image_size {
        return Ok(config.clone());
    }
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
                "use larger images, change encoder.image_size or set encoder.pad = true",
            ));
        }
    }
    Ok(other)
}
