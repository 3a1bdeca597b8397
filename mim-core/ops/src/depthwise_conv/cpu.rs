//! f32 kernels of depth-wise convolution.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use rayon::prelude::*;

use crate::partition::{add_partials, rows_per_partial, rows_per_task};
use crate::simd::multiversion;

/// Channels whose sums stay in registers: two AVX-512 registers, or four of AVX2.
const LANES: usize = 32;

/// Sizes of a `[batch, height, width, channels]` map and of the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    /// Side of the kernel.
    pub(super) side: usize,
}

impl Geometry {
    pub(super) fn of(dims: &[usize], side: usize) -> Option<Self> {
        match *dims {
            [batch, height, width, channels] => Some(Self {
                batch,
                height,
                width,
                channels,
                side,
            }),
            _ => None,
        }
    }

    /// Values in one row of an image.
    fn row(self) -> usize {
        self.width * self.channels
    }
}

/// Kernel taps along one axis that fall inside the image, for the output at `place`.
#[inline(always)]
fn taps(place: usize, length: usize, side: usize) -> std::ops::Range<usize> {
    let reach = side / 2;
    reach.saturating_sub(place)..side.min(length + reach - place)
}

multiversion! {
    /// One row of the output; `image` is the whole input image.
    fn forward_row(
        image: &[f32],
        kernel: &[f32],
        bias: Option<&[f32]>,
        y: usize,
        size: Geometry,
        out: &mut [f32],
    ) {
        let Geometry { height, width, channels, side, .. } = size;
        let reach = side / 2;
        for start in (0..channels).step_by(LANES) {
            let count = LANES.min(channels - start);
            for x in 0..width {
                let mut sums = [0f32; LANES];
                if let Some(bias) = bias {
                    sums[..count].copy_from_slice(&bias[start..start + count]);
                }
                for row in taps(y, height, side) {
                    for col in taps(x, width, side) {
                        let place = (y + row - reach) * width + x + col - reach;
                        let values = &image[place * channels + start..][..count];
                        let weights = &kernel[(row * side + col) * channels + start..][..count];
                        match (values.first_chunk::<LANES>(), weights.first_chunk::<LANES>()) {
                            (Some(values), Some(weights)) => {
                                for lane in 0..LANES {
                                    sums[lane] += values[lane] * weights[lane];
                                }
                            }
                            _ => {
                                for ((sum, v), w) in sums.iter_mut().zip(values).zip(weights) {
                                    *sum += v * w;
                                }
                            }
                        }
                    }
                }
                out[x * channels + start..][..count].copy_from_slice(&sums[..count]);
            }
        }
    }
}

/// The convolution of all images with `kernel`, `[taps, channels]`.
pub(super) fn forward(
    xs: &[f32],
    kernel: &[f32],
    bias: Option<&[f32]>,
    size: Geometry,
) -> Vec<f32> {
    let mut ys = vec![0f32; xs.len()];
    let row = size.row();
    if row == 0 {
        return ys;
    }
    let rows = rows_per_task(row);
    ys.par_chunks_mut(rows * row)
        .enumerate()
        .for_each(|(task, ys)| {
            for (index, out) in (task * rows..).zip(ys.chunks_exact_mut(row)) {
                let (image, y) = (index / size.height, index % size.height);
                let image = &xs[image * size.height * row..][..size.height * row];
                forward_row(image, kernel, bias, y, size, out);
            }
        });
    ys
}

multiversion! {
    /// Adds the share of one output row to the gradients of the kernel; `sums` is `[taps + 1, channels]`, and its
    /// last row is the bias.
    fn weights_row(
        image: &[f32],
        grad: &[f32],
        y: usize,
        size: Geometry,
        sums: &mut [f32],
    ) {
        let Geometry { height, width, channels, side, .. } = size;
        let reach = side / 2;
        for start in (0..channels).step_by(LANES) {
            let count = LANES.min(channels - start);
            for row in taps(y, height, side) {
                let line = &image[(y + row - reach) * width * channels..][..width * channels];
                for col in 0..side {
                    let mut total = [0f32; LANES];
                    for x in reach.saturating_sub(col)..width.min((width + reach).saturating_sub(col)) {
                        let values = &line[(x + col - reach) * channels + start..][..count];
                        let grads = &grad[x * channels + start..][..count];
                        match (values.first_chunk::<LANES>(), grads.first_chunk::<LANES>()) {
                            (Some(values), Some(grads)) => {
                                for lane in 0..LANES {
                                    total[lane] += values[lane] * grads[lane];
                                }
                            }
                            _ => {
                                for ((sum, v), g) in total.iter_mut().zip(values).zip(grads) {
                                    *sum += v * g;
                                }
                            }
                        }
                    }
                    let to = &mut sums[(row * side + col) * channels + start..][..count];
                    for (to, total) in to.iter_mut().zip(total) {
                        *to += total;
                    }
                }
            }
        }
        let bias = &mut sums[side * side * channels..];
        for grad in grad.chunks_exact(channels) {
            for (sum, g) in bias.iter_mut().zip(grad) {
                *sum += g;
            }
        }
    }
}

/// The gradients of the kernel `[taps, channels]` and of the bias.
pub(super) fn backward_weights(xs: &[f32], grad: &[f32], size: Geometry) -> (Vec<f32>, Vec<f32>) {
    let kernel = size.side * size.side * size.channels;
    let (row, values) = (size.row(), kernel + size.channels);
    let all = size.batch * size.height;
    let rows = rows_per_partial(all, row.max(values));
    let mut partials = vec![0f32; all.div_ceil(rows.max(1)) * values];
    if row > 0 {
        partials
            .par_chunks_mut(values)
            .zip(grad.par_chunks(rows * row))
            .enumerate()
            .for_each(|(task, (sums, grad))| {
                for (index, grad) in (task * rows..).zip(grad.chunks_exact(row)) {
                    let (image, y) = (index / size.height, index % size.height);
                    let image = &xs[image * size.height * row..][..size.height * row];
                    weights_row(image, grad, y, size, sums);
                }
            });
    }
    let mut dw = add_partials(&partials, values);
    let db = dw.split_off(kernel);
    (dw, db)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_stay_on_the_image() {
        assert_eq!(taps(0, 4, 5), 2..5);
        assert_eq!(taps(3, 4, 5), 0..3);
        assert_eq!(taps(0, 1, 5), 2..3);
        assert_eq!(taps(2, 9, 3), 0..3);
    }
}
