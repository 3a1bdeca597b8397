//! Converts images to rows of patches and back, in candle operations.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Error, PatchGrid, Result};

/// The order of the values of one patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchOrder {
    /// (row, column, channel): for pixel targets and predictions, as in MAE and most other methods.
    #[default]
    PixelsThenChannels,
    /// (channel, row, column): the order of a convolution's weight `[outputs, channels, patch, patch]`, and of
    /// heads that are a convolution with pixel shuffle (SimMIM) or a transposed convolution (BootMAE).
    ChannelsThenPixels,
}

/// Cuts images `[batch, channels, height, width]` into `[batch, rows * cols, patch * patch * channels]`.
///
/// Patches are in row-major order. He et al. (CVPR 2022); facebookresearch/mae @ efb2a80, `models_mae.py`.
///
/// # Errors
///
/// [`Error::Shape`] if height or width is not a multiple of `patch`.
pub fn patchify(images: &Tensor, patch: usize, order: PatchOrder) -> Result<Tensor> {
    let (batch, channels, height, width) = match *images.dims() {
        [b, c, h, w] if patch > 0 && h.is_multiple_of(patch) && w.is_multiple_of(patch) => {
            (b, c, h, w)
        }
        _ => {
            return Err(Error::shape(
                "patchify images",
                format!("[batch, channels, height, width] with sides a multiple of {patch} > 0"),
                images.dims(),
                "resize the images or choose another patch size",
            ));
        }
    };
    let (rows, cols) = (height / patch, width / patch);
    let parts = images.reshape(&[batch, channels, rows, patch, cols, patch][..])?;
    let parts = match order {
        PatchOrder::PixelsThenChannels => parts.permute([0, 2, 4, 3, 5, 1])?,
        PatchOrder::ChannelsThenPixels => parts.permute([0, 2, 4, 1, 3, 5])?,
    };
    Ok(parts.reshape((batch, rows * cols, patch * patch * channels))?)
}

/// The inverse of [`patchify`]: `[batch, tokens, patch * patch * channels]` to images.
///
/// # Errors
///
/// [`Error::Shape`] if the tokens do not fill `grid` or a row does not divide into channels.
pub fn unpatchify(
    patches: &Tensor,
    patch: usize,
    grid: PatchGrid,
    order: PatchOrder,
) -> Result<Tensor> {
    let area = patch * patch;
    let (batch, channels) = match *patches.dims() {
        [b, tokens, values] if tokens == grid.len() && area > 0 && values.is_multiple_of(area) => {
            (b, values / area)
        }
        _ => {
            return Err(Error::shape(
                "unpatchify patches",
                format!("[batch, {}, {area} * channels], {area} > 0", grid.len()),
                patches.dims(),
                "give all patches of the grid, each with all channels",
            ));
        }
    };
    let (rows, cols) = (grid.rows, grid.cols);
    let images = match order {
        PatchOrder::PixelsThenChannels => patches
            .reshape(&[batch, rows, cols, patch, patch, channels][..])?
            .permute([0, 5, 1, 3, 2, 4])?,
        PatchOrder::ChannelsThenPixels => patches
            .reshape(&[batch, rows, cols, channels, patch, patch][..])?
            .permute([0, 3, 1, 4, 2, 5])?,
    };
    Ok(images.reshape((batch, channels, rows * patch, cols * patch))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};
    use proptest::prelude::*;

    fn counting(shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        let values: Vec<u32> = (0u32..).take(count).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn orders_of_a_patch() {
        // Two channels of one row of two 2 x 2 patches: channel 0 is 0..8, channel 1 is 8..16.
        let images = counting(&[1, 2, 2, 4]);
        let first = |order| -> Vec<u32> {
            let patches = patchify(&images, 2, order).unwrap();
            patches.get(0).unwrap().get(0).unwrap().to_vec1().unwrap()
        };
        let pixels = first(PatchOrder::PixelsThenChannels);
        assert_eq!(pixels, [0, 8, 1, 9, 4, 12, 5, 13]);
        let channels = first(PatchOrder::ChannelsThenPixels);
        assert_eq!(channels, [0, 1, 4, 5, 8, 9, 12, 13]);
    }

    #[test]
    fn refuses_sizes_that_do_not_divide() {
        for (shape, patch) in [(&[1, 1, 4, 6][..], 4), (&[1, 4, 4], 2), (&[1, 1, 4, 4], 0)] {
            assert!(patchify(&counting(shape), patch, PatchOrder::PixelsThenChannels).is_err());
        }
        let (grid, order) = (PatchGrid::new(1, 2), PatchOrder::PixelsThenChannels);
        for (shape, patch) in [(&[1, 3, 4][..], 2), (&[1, 2, 6], 2), (&[1, 2, 4], 0)] {
            assert!(unpatchify(&counting(shape), patch, grid, order).is_err());
        }
    }

    #[test]
    fn both_pass_gradients() {
        // Values only move, so the gradient of a sum of squares is twice the input.
        let twice = |shape: &[usize], op: &dyn Fn(&Tensor) -> Result<Tensor>| {
            let xs = counting(shape).to_dtype(DType::F32).unwrap();
            let xs = Var::from_tensor(&xs).unwrap();
            let loss = op(&xs).unwrap().sqr().unwrap().sum_all().unwrap();
            let found = loss.backward().unwrap().get(&xs).unwrap().clone();
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&found), values(&(xs.as_tensor() * 2.).unwrap()));
        };
        let grid = PatchGrid::new(2, 1);
        for order in [
            PatchOrder::PixelsThenChannels,
            PatchOrder::ChannelsThenPixels,
        ] {
            twice(&[2, 3, 4, 2], &|xs| patchify(xs, 2, order));
            twice(&[2, 2, 12], &|xs| unpatchify(xs, 2, grid, order));
        }
    }

    proptest! {
        #[test]
        fn unpatchify_inverts_patchify(
            batch in 1usize..3, channels in 1usize..5, rows in 1usize..5, cols in 1usize..5,
            patch in 1usize..5, pixels_first in any::<bool>(),
        ) {
            let order = match pixels_first {
                true => PatchOrder::PixelsThenChannels,
                false => PatchOrder::ChannelsThenPixels,
            };
            let images = counting(&[batch, channels, rows * patch, cols * patch]);
            let patches = patchify(&images, patch, order).unwrap();
            prop_assert_eq!(patches.dims(), &[batch, rows * cols, patch * patch * channels]);
            let back = unpatchify(&patches, patch, PatchGrid::new(rows, cols), order).unwrap();
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<u32>().unwrap();
            prop_assert_eq!(back.dims(), images.dims());
            prop_assert_eq!(values(&back), values(&images));
        }
    }
}
