//! FastMIM-P: images that grow during training.

use mim_core::augment::ViewPlan;
use mim_core::{Encoder, Error, ImageSize, PatchGrid, Result};
use mim_masking::CellMasker;
use serde::{Deserialize, Serialize};

use super::FastMimConfig;

/// The image size from an epoch on.
///
/// The authors' code accepts such a list, but its encoders refuse any size but the first. Here all weights are kept,
/// and whatever depends on the size is computed again: the random crop, the mask grid (blocks keep their side in
/// pixels), fixed positions, and Swin's windows, which keep their side and use the shifts of the new grid. Batch size
/// and learning rate do not change either. Before the first stage, and in evaluations, images have the encoder's size.
///
/// ```toml
/// stages = [{ epoch = 400, size = 160 }, { epoch = 600, size = 192 }]
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolutionStage {
    /// First epoch of this size, from 0.
    pub epoch: usize,
    /// Height and width in pixels.
    pub size: ImageSize,
}

impl FastMimConfig {
    /// The views for images of `size`: those of the settings with resized random crops, or the default.
    pub(super) fn plan(&self, size: ImageSize) -> Result<ViewPlan> {
        let crop = <(usize, usize)>::from(size);
        let Some(views) = self.views.clone() else {
            return Ok(ViewPlan::mae(crop));
        };
        if size == self.encoder.image_size() {
            return Ok(views);
        }
        views.with_crop_size(crop).ok_or_else(|| {
            Error::config(
                "fastmim",
                "stages",
                size,
                "no operation in `views` is a random crop, whose size could change",
                "add random_resized_crop to the views, or remove `stages`",
            )
        })
    }

    /// Checks that all sizes fit `encoder` and the blocks, and that the stages are in order.
    pub(super) fn check_sizes(&self, encoder: &dyn Encoder, masker: &CellMasker) -> Result<()> {
        let own = [self.encoder.image_size()].into_iter();
        for size in own.chain(self.stages.iter().map(|stage| stage.size)) {
            let size = <(usize, usize)>::from(size);
            encoder.grid(size)?;
            masker.cells(PatchGrid::of_image(size, self.mask_stride())?)?;
        }
        let bad = |value: String, why: &'static str, fix: &'static str| {
            Err(Error::config("fastmim", "stages", value, why, fix))
        };
        let mut pairs = self.stages.windows(2);
        if let Some(pair) = pairs.find(|pair| pair[0].epoch >= pair[1].epoch) {
            let value = format!("{} before {}", pair[0].epoch, pair[1].epoch);
            let why = "each stage must begin after the previous one";
            return bad(value, why, "sort the stages by epoch");
        }
        match self.stages.is_empty() || self.encoder.any_size() {
            true => Ok(()),
            false => bad(
                format!("{} sizes", self.stages.len()),
                "trained positions fit only one image size",
                "use pos_embed = \"sincos\" and rel_pos_bias = \"none\"",
            ),
        }
    }
}
