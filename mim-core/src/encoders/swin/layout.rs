//! What a stage of Swin does to one grid of tokens.

use candle_core::{Device, Tensor};

use super::{SwinConfig, merging};
use crate::nn::Windows;
use crate::{PatchGrid, Result};

/// Windows and merging of one stage on one grid.
#[derive(Debug, Clone)]
pub(super) struct StageLayout {
    plain: Windows,
    shifted: Windows,
    shift_mask: Option<Tensor>,
    /// The tokens of each token of the next stage, as [`merging::order`] lists them.
    pub(super) merging: Vec<u32>,
}

impl StageLayout {
    /// For images of (height, width) pixels: one layout a stage.
    pub(super) fn all(
        config: &SwinConfig,
        image: (usize, usize),
        device: &Device,
    ) -> Result<Vec<Self>> {
        let stages = 0..config.stages();
        stages
            .map(|stage| Self::new(config, stage, config.grid_of(image, stage)?, device))
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

    /// The windows of an even or an odd block, and what keeps rolled tokens apart.
    pub(super) fn windows(&self, odd: bool) -> (&Windows, Option<&Tensor>) {
        match odd {
            true => (&self.shifted, self.shift_mask.as_ref()),
            false => (&self.plain, None),
        }
    }
}
