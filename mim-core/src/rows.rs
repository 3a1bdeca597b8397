//! Predictions and targets, and the one place where they are paired.

use candle_core::Tensor;

use crate::ops::{self, PatchOrder};
use crate::{Error, Mask, PatchGrid, Result};

/// Tokens that the rows of a tensor belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// All patches, in image order.
    Patches,
    /// The class token, then all patches in image order.
    ClsAndPatches,
    /// The visible patches, in the mask's order.
    Visible,
    /// The hidden patches, in the mask's order.
    Masked,
    /// One row per image.
    Image,
}

/// Output of a decoder.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// `[rows, tokens, C]`; `[images, C]` for [`Rows::Image`]; flat `[total, C]` if counts vary.
    pub values: Tensor,
    /// The predicted tokens.
    pub rows: Rows,
    /// The grid of the tokens.
    pub grid: PatchGrid,
}

impl Prediction {
    /// The values as `[total, C]`.
    ///
    /// # Errors
    ///
    /// Fails only for a scalar.
    pub fn flat(&self) -> Result<Tensor> {
        let channels = self.values.dim(candle_core::D::Minus1)?;
        Ok(self.values.reshape(((), channels))?)
    }

    /// Splits the prediction to a `finer` grid, for masks finer than an encoder's output.
    ///
    /// The values of a patch are `channels` numbers at each position of a square, in `order`: pixels, or
    /// histograms of cells with the bins of all colours as channels. They become the values of its cells.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if it does not cover all patches, [`Error::Shape`] if `finer` is not a
    /// whole multiple of its grid or its values are not square patches that the cells tile.
    pub fn regroup(&self, finer: PatchGrid, order: PatchOrder, channels: usize) -> Result<Self> {
        if self.rows != Rows::Patches {
            return Err(Error::unsupported(
                format!("splitting a prediction of {:?} rows", self.rows),
                "only predictions of whole images can be split",
                "predict all patches",
            ));
        }
        let scale = self.grid.scale_to(finer)?;
        let values = self.values.dim(candle_core::D::Minus1)?;
        let patch = (values / channels.max(1)).isqrt();
        if patch * patch * channels != values || !patch.is_multiple_of(scale) {
            return Err(Error::shape(
                "values of a patch to split",
                format!("{channels} channels of square patches whose side {scale} divides"),
                values,
                "choose mask cells with sides of whole pixels",
            ));
        }
        let image = ops::unpatchify(&self.values, patch, self.grid, order)?;
        Ok(Self {
            values: ops::patchify(&image, patch / scale, order)?,
            rows: Rows::Patches,
            grid: finer,
        })
    }
}

/// Target of a prediction. It has no gradient unless its generator says so.
#[derive(Debug, Clone)]
pub struct Target {
    /// [`Rows::Patches`] (the whole image, image order), [`Rows::Masked`] (generated for one mask) or
    /// [`Rows::Image`] (only [`Target::image`]).
    pub rows: Rows,
    /// `[batch, tokens, C]` values or probabilities, or `[batch, tokens]` u32 ids.
    pub patches: Tensor,
    /// One row per image `[batch, C]`: a class token or pooled features.
    pub image: Option<Tensor>,
    /// Attention of the class token `[batch, tokens]`, averaged over heads: a guide for maskers.
    pub attention: Option<Tensor>,
}

impl Target {
    /// A target for all patches of each image.
    pub fn patches(patches: Tensor) -> Self {
        Self {
            rows: Rows::Patches,
            patches,
            image: None,
            attention: None,
        }
    }

    /// A target for whole images, `[batch, C]`, and nothing else.
    pub fn image(image: Tensor) -> Self {
        Self {
            rows: Rows::Image,
            patches: image.clone(),
            image: Some(image),
            attention: None,
        }
    }

    /// The rows that match `rows` under `mask`, flattened to `[total, C]` (`[total]` for ids).
    ///
    /// A target of whole images is repeated for every mask of an image.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the target does not cover those rows, [`Error::Shape`] if mask
    /// and target have different grids or batches.
    pub fn aligned(&self, rows: Rows, mask: &Mask) -> Result<Tensor> {
        match (self.rows, rows) {
            (_, Rows::Image) => {
                let image = self.image_rows()?;
                self.repeated(&image, mask.copies(image.dim(0)?)?)
            }
            (Rows::Patches, Rows::Patches) => {
                let (images, _) = self.whole(mask)?;
                let patches = self.repeated(&self.patches, mask.copies(images)?)?;
                Ok(patches.flatten(0, 1)?)
            }
            (Rows::Patches, Rows::ClsAndPatches) => {
                let (images, _) = self.whole(mask)?;
                let both = Tensor::cat(&[&self.image_rows()?.unsqueeze(1)?, &self.patches], 1)?;
                Ok(self.repeated(&both, mask.copies(images)?)?.flatten(0, 1)?)
            }
            (Rows::Patches, Rows::Masked | Rows::Visible) => {
                let (images, _) = self.whole(mask)?;
                let ids = mask.flat(rows == Rows::Masked, images, self.patches.device())?;
                Ok(self.patches.flatten(0, 1)?.index_select(&ids, 0)?)
            }
            (Rows::Masked, Rows::Masked) if self.patches.rank() == 3 => {
                Ok(self.patches.flatten(0, 1)?)
            }
            (Rows::Masked, Rows::Masked) => Ok(self.patches.clone()),
            (have, want) => Err(Error::unsupported(
                format!("comparing a prediction with {want:?} rows to a target with {have:?} rows"),
                "the target does not cover those tokens",
                "choose a decoder and a target for the same tokens",
            )),
        }
    }

    /// (images, tokens) of a whole-image target, checked against the mask.
    fn whole(&self, mask: &Mask) -> Result<(usize, usize)> {
        let (images, tokens) = (self.patches.dim(0)?, self.patches.dim(1)?);
        if tokens != mask.grid().len() {
            return Err(Error::shape(
                "target tokens",
                format!(
                    "{} tokens, like the mask's grid {}",
                    mask.grid().len(),
                    mask.grid()
                ),
                tokens,
                "use the same patch grid for target and mask",
            ));
        }
        Ok((images, tokens))
    }

    fn image_rows(&self) -> Result<Tensor> {
        self.image.clone().ok_or_else(|| {
            Error::unsupported(
                "comparing whole-image predictions",
                "this target has no row for the image",
                "use a feature target with a class token or pooled row",
            )
        })
    }

    fn repeated(&self, xs: &Tensor, copies: usize) -> Result<Tensor> {
        if copies == 1 {
            return Ok(xs.clone());
        }
        Ok(Tensor::cat(&vec![xs; copies], 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn target() -> Target {
        let patches = Tensor::arange(0f32, 8., &Device::Cpu)
            .unwrap()
            .reshape((2, 4, 1))
            .unwrap();
        Target::patches(patches)
    }

    fn values(xs: Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn rows_follow_the_masks_order_and_repeat_images() {
        let grid = PatchGrid::new(2, 2);
        let mask = Mask::new(
            grid,
            vec![3, 0, 2, 1, 0, 1, 3, 2, 1, 2, 0, 3, 2, 3, 1, 0],
            vec![2; 4],
        )
        .unwrap();
        let masked = target().aligned(Rows::Masked, &mask).unwrap();
        assert_eq!(values(masked), [2., 1., 7., 6., 0., 3., 5., 4.]);
        assert_eq!(
            target().aligned(Rows::Patches, &mask).unwrap().dims(),
            [16, 1]
        );
    }

    #[test]
    fn a_prediction_is_split_into_cells_in_its_own_order() {
        // One patch of 2x2 pixels with two channels; each cell is one pixel.
        let prediction = |order| {
            let pixels = [[[0f32, 1., 2., 3., 10., 11., 12., 13.]]];
            let prediction = Prediction {
                values: Tensor::new(&pixels, &Device::Cpu).unwrap(),
                rows: Rows::Patches,
                grid: PatchGrid::new(1, 1),
            };
            prediction.regroup(PatchGrid::new(2, 2), order, 2)
        };
        let channels_first = prediction(PatchOrder::ChannelsThenPixels).unwrap();
        assert_eq!(channels_first.values.dims(), [1, 4, 2]);
        assert_eq!(channels_first.grid, PatchGrid::new(2, 2));
        let cells = [0., 10., 1., 11., 2., 12., 3., 13.];
        assert_eq!(values(channels_first.values), cells);
        let pixels_first = prediction(PatchOrder::PixelsThenChannels).unwrap();
        assert_eq!(
            values(pixels_first.values),
            [0., 1., 2., 3., 10., 11., 12., 13.]
        );
    }

    #[test]
    fn refuses_to_split_untiled_patches() {
        let prediction = |rows, width| Prediction {
            values: Tensor::zeros((1, 1, width), candle_core::DType::F32, &Device::Cpu).unwrap(),
            rows,
            grid: PatchGrid::new(1, 1),
        };
        let split = |prediction: Prediction, side| {
            let finer = PatchGrid::new(side, side);
            prediction.regroup(finer, PatchOrder::ChannelsThenPixels, 3)
        };
        assert!(split(prediction(Rows::Patches, 12), 2).is_ok());
        assert!(split(prediction(Rows::Patches, 12), 3).is_err());
        assert!(split(prediction(Rows::Patches, 11), 1).is_err());
        assert!(split(prediction(Rows::Masked, 12), 2).is_err());
    }

    #[test]
    fn refuses_rows_outside_the_target() {
        let mask = Mask::from_bits(PatchGrid::new(2, 2), &[0, 1, 1, 0, 1, 0, 0, 1]).unwrap();
        assert!(target().aligned(Rows::Image, &mask).is_err());
        assert!(target().aligned(Rows::ClsAndPatches, &mask).is_err());
        let wrong_grid = Mask::from_bits(PatchGrid::new(1, 2), &[0, 1, 1, 0]).unwrap();
        assert!(target().aligned(Rows::Masked, &wrong_grid).is_err());
    }
}
