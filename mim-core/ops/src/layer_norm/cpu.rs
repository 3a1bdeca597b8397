//! f32 kernels of layer normalisation.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them; outputs start uninitialised"
)]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::alloc_uninit::alloc_uninit;
use crate::partition::{add_partials, rows_per_partial, rows_per_task};
use crate::simd::{multiversion, sum, sum2};

/// Row statistics for the backward pass: the mean and the reciprocal of the standard deviation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moments {
    mean: f32,
    scale: f32,
}

/// Weight and bias, `width` values each.
pub(crate) type Affine<'a> = Option<(&'a [f32], &'a [f32])>;

#[inline(always)]
fn moments(xs: &[f32], eps: f32) -> Moments {
    let count = xs.len() as f32;
    let mean = sum(xs, |x| x) / count;
    let variance = sum(xs, |x| (x - mean) * (x - mean)) / count;
    Moments {
        mean,
        scale: 1.0 / (variance + eps).sqrt(),
    }
}

multiversion! {
    fn forward_rows(xs: &[f32], affine: Affine<'_>, eps: f32, ys: &mut [MaybeUninit<f32>], found: &mut [Moments]) {
        let width = xs.len() / found.len().max(1);
        let rows = xs.chunks_exact(width).zip(ys.chunks_exact_mut(width));
        for ((xs, ys), found) in rows.zip(found) {
            let Moments { mean, scale } = moments(xs, eps);
            *found = Moments { mean, scale };
            match affine {
                Some((weight, bias)) => {
                    for (((y, x), w), b) in ys.iter_mut().zip(xs).zip(weight).zip(bias) {
                        y.write((x - mean) * scale * w + b);
                    }
                }
                None => {
                    for (y, x) in ys.iter_mut().zip(xs) {
                        y.write((x - mean) * scale);
                    }
                }
            }
        }
    }
}

multiversion! {
    /// Replaces `grad`, the gradients of standardised rows, by the gradients of the rows.
    fn backward_rows(xs: &[f32], found: &[Moments], grad: &mut [f32]) {
        let width = xs.len() / found.len().max(1);
        let rows = xs.chunks_exact(width).zip(grad.chunks_exact_mut(width));
        for ((xs, grad), &Moments { mean, scale }) in rows.zip(found) {
            let count = width as f32;
            let level = sum(grad, |g| g) / count;
            let slope = sum2(grad, xs, |g, x| g * ((x - mean) * scale)) / count;
            for (g, x) in grad.iter_mut().zip(xs) {
                *g = scale * (*g - level - (x - mean) * scale * slope);
            }
        }
    }
}

multiversion! {
    /// Adds these rows to the gradients of weight and bias; `sums` holds weight, then bias.
    fn affine_rows(xs: &[f32], found: &[Moments], grad: &[f32], sums: &mut [f32]) {
        let width = sums.len() / 2;
        let (dw, db) = sums.split_at_mut(width);
        let rows = xs.chunks_exact(width).zip(grad.chunks_exact(width));
        for ((xs, grad), &Moments { mean, scale }) in rows.zip(found) {
            for (((dw, db), x), g) in dw.iter_mut().zip(&mut *db).zip(xs).zip(grad) {
                *dw += g * ((x - mean) * scale);
                *db += g;
            }
        }
    }
}

multiversion! {
    fn weigh_rows(grad: &mut [f32], weight: &[f32]) {
        for grad in grad.chunks_exact_mut(weight.len()) {
            for (g, w) in grad.iter_mut().zip(weight) {
                *g *= w;
            }
        }
    }
}

/// Normalised rows and their moments.
pub(crate) fn forward(
    xs: &[f32],
    width: usize,
    affine: Affine<'_>,
    eps: f32,
) -> (Vec<f32>, Vec<Moments>) {
    let mut found = vec![Moments::default(); xs.len() / width];
    let rows = rows_per_task(width);
    // SAFETY: the tasks cover all rows, and each row is written in full.
    let ys = unsafe {
        alloc_uninit(xs.len(), |ys| {
            ys.par_chunks_mut(rows * width)
                .zip(xs.par_chunks(rows * width))
                .zip(found.par_chunks_mut(rows))
                .for_each(|((ys, xs), found)| forward_rows(xs, affine, eps, ys, found));
        })
    };
    (ys, found)
}

/// Replaces the gradient of the output by that of the rows; `weight` is the affine weight, if any.
pub(crate) fn backward(
    xs: &[f32],
    found: &[Moments],
    weight: Option<&[f32]>,
    mut grad: Vec<f32>,
    width: usize,
) -> Vec<f32> {
    let rows = rows_per_task(width);
    grad.par_chunks_mut(rows * width)
        .zip(xs.par_chunks(rows * width))
        .zip(found.par_chunks(rows))
        .for_each(|((grad, xs), found)| {
            if let Some(weight) = weight {
                weigh_rows(grad, weight);
            }
            backward_rows(xs, found, grad);
        });
    grad
}

multiversion! {
    fn add(sum: &mut [f32], more: &[f32]) {
        for (sum, more) in sum.iter_mut().zip(more) {
            *sum += more;
        }
    }
}

/// [`backward`] with `more` added to the result.
pub(crate) fn backward_added(
    (xs, more): (&[f32], &[f32]),
    found: &[Moments],
    weight: &[f32],
    mut grad: Vec<f32>,
) -> Vec<f32> {
    let width = weight.len();
    let rows = rows_per_task(width);
    grad.par_chunks_mut(rows * width)
        .zip(xs.par_chunks(rows * width))
        .zip(more.par_chunks(rows * width))
        .zip(found.par_chunks(rows))
        .for_each(|(((grad, xs), more), found)| {
            weigh_rows(grad, weight);
            backward_rows(xs, found, grad);
            add(grad, more);
        });
    grad
}

/// The gradients of weight and bias.
pub(crate) fn backward_affine(
    xs: &[f32],
    found: &[Moments],
    grad: &[f32],
    width: usize,
) -> (Vec<f32>, Vec<f32>) {
    let rows = rows_per_partial(found.len(), width);
    let mut partials = vec![0f32; found.len().div_ceil(rows) * 2 * width];
    partials
        .par_chunks_mut(2 * width)
        .zip(xs.par_chunks(rows * width))
        .zip(grad.par_chunks(rows * width))
        .zip(found.par_chunks(rows))
        .for_each(|(((sums, xs), grad), found)| affine_rows(xs, found, grad, sums));
    let mut dw = add_partials(&partials, 2 * width);
    let db = dw.split_off(width);
    (dw, db)
}
