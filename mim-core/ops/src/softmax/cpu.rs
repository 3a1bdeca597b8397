//! f32 kernels of softmax.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use rayon::prelude::*;

use crate::partition::rows_per_task;
use crate::simd::{exp, largest, multiversion, sum, sum2};

multiversion! {
    /// Replaces each row of `width` values with its softmax.
    pub(crate) fn forward_rows(rows: &mut [f32], width: usize) {
        for row in rows.chunks_exact_mut(width) {
            let top = largest(row);
            for x in row.iter_mut() {
                *x = exp(*x - top);
            }
            let scale = 1.0 / sum(row, |x| x);
            for x in row.iter_mut() {
                *x *= scale;
            }
        }
    }
}

multiversion! {
    /// Replaces each row of `grad` with `y (grad - Σ grad y)`.
    pub(crate) fn backward_rows(ys: &[f32], grad: &mut [f32], width: usize) {
        for (ys, grad) in ys.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let mean = sum2(grad, ys, |g, y| g * y);
            for (g, y) in grad.iter_mut().zip(ys) {
                *g = y * (*g - mean);
            }
        }
    }
}

/// Softmax of rows of `width` values.
pub(super) fn forward(xs: &[f32], width: usize) -> Vec<f32> {
    let mut ys = xs.to_vec();
    ys.par_chunks_mut(rows_per_task(width) * width)
        .for_each(|rows| forward_rows(rows, width));
    ys
}

/// The gradient of the input from the output `ys` and its gradient.
pub(super) fn backward(ys: &[f32], grad: &[f32], width: usize) -> Vec<f32> {
    let mut dx = grad.to_vec();
    let task = rows_per_task(width) * width;
    dx.par_chunks_mut(task)
        .zip(ys.par_chunks(task))
        .for_each(|(dx, ys)| backward_rows(ys, dx, width));
    dx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let xs: Vec<f32> = (0..197).map(|i| (i as f32 * 1.7).sin() * 9.0).collect();
        let top = largest(&xs);
        let ys: Vec<f32> = xs.iter().map(|x| exp(x - top)).collect();
        let scale = 1.0 / sum(&ys, |y| y);
        let plain: Vec<f32> = ys.iter().map(|y| y * scale).collect();
        assert_eq!(forward(&xs, xs.len()), plain);
    }
}
