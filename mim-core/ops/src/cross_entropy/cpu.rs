//! f32 kernels of cross-entropy.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them; outputs start uninitialised"
)]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::alloc_uninit::alloc_uninit;
use crate::partition::rows_per_task;
use crate::simd::{exp, largest, multiversion, sum, sum2};

/// Targets of all rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Targets<'a> {
    /// The class of each row.
    Ids(&'a [u32]),
    /// Probabilities of all classes, `[n, width]`; row r uses target r % n.
    Shares(&'a [f32]),
}

/// Target of one row.
#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    Id(usize),
    Shares(&'a [f32]),
}

impl<'a> Targets<'a> {
    fn of(self, row: usize, width: usize) -> Target<'a> {
        match self {
            Self::Ids(ids) => Target::Id(ids[row] as usize),
            Self::Shares(shares) => {
                let start = row * width % shares.len();
                Target::Shares(&shares[start..][..width])
            }
        }
    }
}

/// What the backward pass needs of a row. The log of the sum would not do: added to a large logit, it loses
/// its last digits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// The largest logit.
    top: f32,
    /// `Σ e^((x - top) scale)`.
    sum: f32,
    /// The sum of the target probabilities.
    mass: f32,
}

impl Row {
    /// `e^((x - top) scale)`, at most 1.
    #[inline(always)]
    fn weight(self, x: f32, scale: f32) -> f32 {
        exp((x - self.top) * scale)
    }
}

multiversion! {
    fn forward_row(xs: &[f32], target: Target<'_>, scale: f32) -> (f32, Row) {
        let mut row = Row { top: largest(xs), sum: 0.0, mass: 1.0 };
        row.sum = sum(xs, |x| row.weight(x, scale));
        let distance = match target {
            Target::Id(id) => row.top - xs[id],
            Target::Shares(shares) => {
                row.mass = sum(shares, |p| p);
                sum2(shares, xs, |p, x| p * (row.top - x))
            }
        };
        (distance * scale + row.mass * row.sum.ln(), row)
    }
}

multiversion! {
    /// `(mass softmax - p) grad`; `factors` holds the scale and the gradient of the loss.
    fn backward_row(xs: &[f32], target: Target<'_>, row: Row, factors: [f32; 2], dx: &mut [MaybeUninit<f32>]) {
        let ([scale, grad], share) = (factors, row.mass / row.sum);
        match target {
            Target::Id(id) => {
                for (d, x) in dx.iter_mut().zip(xs) {
                    d.write(share * row.weight(*x, scale) * grad);
                }
                dx[id].write((share * row.weight(xs[id], scale) - 1.0) * grad);
            }
            Target::Shares(shares) => {
                for ((d, x), p) in dx.iter_mut().zip(xs).zip(shares) {
                    d.write((share * row.weight(*x, scale) - p) * grad);
                }
            }
        }
    }
}

/// The loss of each row; logits have `width` values a row and are multiplied by `scale`.
pub(super) fn forward(
    xs: &[f32],
    targets: Targets<'_>,
    width: usize,
    scale: f32,
) -> (Vec<f32>, Vec<Row>) {
    xs.par_chunks_exact(width)
        .enumerate()
        .with_min_len(rows_per_task(width))
        .map(|(row, xs)| forward_row(xs, targets.of(row, width), scale))
        .unzip()
}

/// The gradient of the logits from the gradient of each row's loss.
pub(super) fn backward(
    xs: &[f32],
    targets: Targets<'_>,
    found: &[Row],
    grad: &[f32],
    scale: f32,
) -> Vec<f32> {
    let width = (xs.len() / found.len().max(1)).max(1);
    // SAFETY: every row is written in full.
    unsafe {
        alloc_uninit(xs.len(), |dx| {
            dx.par_chunks_exact_mut(width)
                .zip(xs.par_chunks_exact(width))
                .zip(found.par_iter().zip(grad))
                .enumerate()
                .with_min_len(rows_per_task(width))
                .for_each(|(row, ((dx, xs), (found, grad)))| {
                    let factors = [scale, grad * scale];
                    backward_row(xs, targets.of(row, width), *found, factors, dx);
                });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let xs: Vec<f32> = (0..197).map(|i| (i as f32 * 1.7).sin() * 9.0).collect();
        let top = largest(&xs);
        let all = sum(&xs, |x| exp((x - top) * 2.0));
        let (losses, found) = forward(&xs, Targets::Ids(&[5]), xs.len(), 2.0);
        assert_eq!(losses, [(top - xs[5]) * 2.0 + all.ln()]);
        let mut plain: Vec<f32> = xs
            .iter()
            .map(|x| 1.0 / all * exp((x - top) * 2.0) * 6.0)
            .collect();
        plain[5] = (1.0 / all * exp((xs[5] - top) * 2.0) - 1.0) * 6.0;
        let dx = backward(&xs, Targets::Ids(&[5]), &found, &[3.0], 2.0);
        assert_eq!(dx, plain);
    }
}
