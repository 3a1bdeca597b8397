//! Resizing of maps: bilinear interpolation and adaptive pooling, as products with one matrix per axis.

use candle_core::{Device, Tensor};
use mim_core::{Result, ops};

/// Height and width.
pub(super) type Size = (usize, usize);

/// A linear resampling of a map's height and width; gradients pass through it.
pub(super) struct Resample {
    /// `[new rows, rows]`.
    rows: Tensor,
    /// `[new columns, columns]`.
    cols: Tensor,
}

impl Resample {
    /// Bilinear interpolation, edges repeated, as in PyTorch with `align_corners=False`.
    pub(super) fn bilinear(from: Size, to: Size, device: &Device) -> Result<Self> {
        Self::new(from, to, bilinear, device)
    }

    /// Means of `side` x `side` boxes that cover the map, as in PyTorch's adaptive average pooling.
    pub(super) fn pooled(from: Size, side: usize, device: &Device) -> Result<Self> {
        Self::new(from, (side, side), pooled, device)
    }

    fn new(
        from: Size,
        to: Size,
        axis: fn(usize, usize) -> Vec<f32>,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            rows: ops::upload(axis(from.0, to.0), (to.0, from.0), device)?,
            cols: ops::upload(axis(from.1, to.1), (to.1, from.1), device)?,
        })
    }

    /// Maps `[batch, height, width, channels]` to the new height and width.
    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = ops::linear(&xs.permute((0, 2, 3, 1))?, &self.rows, None)?;
        // [batch, width, channels, new rows]
        let ys = ops::linear(&ys.permute((0, 3, 2, 1))?, &self.cols, None)?;
        Ok(ys.permute((0, 1, 3, 2))?)
    }
}

/// Resizes `xs` `[batch, height, width, channels]`.
pub(super) fn resized(xs: &Tensor, to: Size) -> Result<Tensor> {
    let (_, height, width, _) = xs.dims4()?;
    match (height, width) == to {
        true => Ok(xs.clone()),
        false => Resample::bilinear((height, width), to, xs.device())?.forward(xs),
    }
}

/// The matrix `[to, from]` of an interpolated axis.
fn bilinear(from: usize, to: usize) -> Vec<f32> {
    let mut matrix = vec![0.; to * from];
    for (place, row) in matrix.chunks_exact_mut(from).enumerate() {
        // The centre of a position is at (place + 1/2) * from / to - 1/2, in units of 1 / (2 to).
        let middle = ((2 * place + 1) * from).saturating_sub(to);
        let (low, part) = (middle / (2 * to), middle % (2 * to));
        let share = part as f32 / (2 * to) as f32;
        row[low.min(from - 1)] += 1. - share;
        row[(low + 1).min(from - 1)] += share;
    }
    matrix
}

/// The matrix `[to, from]` of a pooled axis.
fn pooled(from: usize, to: usize) -> Vec<f32> {
    let mut matrix = vec![0.; to * from];
    for (place, row) in matrix.chunks_exact_mut(from).enumerate() {
        let (first, end) = (place * from / to, ((place + 1) * from).div_ceil(to));
        row[first..end].fill(1. / (end - first) as f32);
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    #[test]
    fn interpolates_and_pools_like_pytorch() {
        assert_eq!(
            bilinear(2, 4),
            [1., 0., 0.75, 0.25, 0.25, 0.75, 0., 1.],
            "torch.nn.functional.interpolate of [0, 1] gives 0, 0.25, 0.75, 1"
        );
        assert_eq!(bilinear(3, 3), [1., 0., 0., 0., 1., 0., 0., 0., 1.]);
        assert_eq!(pooled(3, 2), [0.5, 0.5, 0., 0., 0.5, 0.5]);
        assert_eq!(pooled(2, 3), [1., 0., 0.5, 0.5, 0., 1.]);
    }

    #[test]
    fn rows_and_columns_keep_their_places_and_gradients_arrive() {
        let device = Device::Cpu;
        let xs = Tensor::arange(0f32, 12., &device).unwrap();
        // Height 2, width 3, two channels: 6 row + 2 column + channel.
        let xs = Var::from_tensor(&xs.reshape((1, 2, 3, 2)).unwrap()).unwrap();
        let ys = resized(&xs, (4, 3)).unwrap();
        assert_eq!(ys.dims(), [1, 4, 3, 2]);
        let value = |row: usize, col: usize, channel: usize| -> f32 {
            let at = ys.get(0).unwrap().get(row).unwrap().get(col).unwrap();
            at.get(channel).unwrap().to_scalar().unwrap()
        };
        assert_eq!((value(0, 2, 1), value(1, 2, 1)), (5., 6.5));
        assert_eq!((value(2, 0, 0), value(3, 1, 1)), (4.5, 9.));
        let gradient = ys.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = gradient.get(&xs).unwrap().flatten_all().unwrap();
        // Pixel (0, 0, 0) is 0 and (1, 0, 0) is 6: 2 (0 * 1 + 1.5 * 0.75 + 4.5 * 0.25).
        assert_eq!(gradient.to_vec1::<f32>().unwrap()[0], 4.5);
    }
}
