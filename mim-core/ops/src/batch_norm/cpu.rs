//! f32 kernels of batch normalisation.
//!
//! Sums over rows are f64: the f32 mean of many nearly equal values would leave few exact digits of their differences.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use rayon::prelude::*;

use crate::Result;
use crate::partition::{rows_per_partial, rows_per_task};
use crate::simd::multiversion;

/// Mean and variance of each column over `rows` rows, and the reciprocal of the standard deviation.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    rows: usize,
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
    scale: Vec<f32>,
}

/// Weight and bias, `width` values each.
pub(super) type Affine<'a> = (&'a [f32], &'a [f32]);

multiversion! {
    fn add_rows(xs: &[f32], sums: &mut [f64]) {
        for xs in xs.chunks_exact(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(xs) {
                *sum += f64::from(*x);
            }
        }
    }
}

multiversion! {
    fn add_squares(xs: &[f32], mean: &[f32], sums: &mut [f64]) {
        for xs in xs.chunks_exact(sums.len()) {
            for ((sum, x), mean) in sums.iter_mut().zip(xs).zip(mean) {
                *sum += f64::from((x - mean) * (x - mean));
            }
        }
    }
}

multiversion! {
    fn forward_rows(xs: &[f32], columns: &Columns, affine: Affine<'_>, ys: &mut [f32]) {
        let (Columns { mean, scale, .. }, (weight, bias)) = (columns, affine);
        for (xs, ys) in xs.chunks_exact(mean.len()).zip(ys.chunks_exact_mut(mean.len())) {
            let values = ys.iter_mut().zip(xs).zip(mean).zip(scale).zip(weight).zip(bias);
            for (((((y, x), mean), scale), w), b) in values {
                *y = (x - mean) * scale * w + b;
            }
        }
    }
}

multiversion! {
    /// Adds these rows to the gradients of weight and bias; `sums` holds weight, then bias.
    fn affine_rows(xs: &[f32], columns: &Columns, grad: &[f32], sums: &mut [f64]) {
        let Columns { mean, scale, .. } = columns;
        let (dw, db) = sums.split_at_mut(mean.len());
        for (xs, grad) in xs.chunks_exact(mean.len()).zip(grad.chunks_exact(mean.len())) {
            let values = dw.iter_mut().zip(&mut *db).zip(xs).zip(grad).zip(mean).zip(scale);
            for (((((dw, db), x), g), mean), scale) in values {
                *dw += f64::from(g * ((x - mean) * scale));
                *db += f64::from(*g);
            }
        }
    }
}

multiversion! {
    /// `slope * ((g - level) - (x - mean) * tilt)`; each factor is the value of its column.
    fn backward_rows(xs: &[f32], mean: &[f32], lines: [&[f32]; 3], grad: &[f32], dx: &mut [f32]) {
        let (width, [slope, level, tilt]) = (mean.len(), lines);
        let rows = xs.chunks_exact(width).zip(grad.chunks_exact(width));
        for ((xs, grad), dx) in rows.zip(dx.chunks_exact_mut(width)) {
            let columns = mean.iter().zip(slope).zip(level).zip(tilt);
            let values = dx.iter_mut().zip(xs).zip(grad).zip(columns);
            for (((dx, x), g), (((mean, slope), level), tilt)) in values {
                *dx = slope * (g - level - (x - mean) * tilt);
            }
        }
    }
}

/// Sums over all rows of `width` values: `add` adds block number `i` of rows to its partial sums.
fn over_rows(
    (rows, width): (usize, usize),
    sums: usize,
    add: impl Fn(std::ops::Range<usize>, &mut [f64]) + Sync,
) -> Vec<f32> {
    let share = rows_per_partial(rows, width);
    let mut partials = vec![0f64; rows.div_ceil(share) * sums];
    partials
        .par_chunks_mut(sums)
        .enumerate()
        .for_each(|(block, sums)| {
            let last = ((block + 1) * share).min(rows);
            add(block * share * width..last * width, sums);
        });
    let mut total = vec![0f64; sums];
    for partial in partials.chunks_exact(sums) {
        for (sum, value) in total.iter_mut().zip(partial) {
            *sum += value;
        }
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernels compute in f32"
    )]
    let total = total.into_iter().map(|sum| sum as f32).collect();
    total
}

/// Moments of each column over the rows of `ranks` processes; `over_all` sums over the processes.
pub(super) fn columns(
    xs: &[f32],
    width: usize,
    eps: f32,
    (ranks, over_all): (usize, impl Fn(Vec<f32>) -> Result<Vec<f32>>),
) -> Result<Columns> {
    let size = (xs.len() / width, width);
    let rows = size.0 * ranks;
    let mean_of = |sums: Vec<f32>| -> Result<Vec<f32>> {
        let mut sums = over_all(sums)?;
        sums.iter_mut().for_each(|sum| *sum /= rows as f32);
        Ok(sums)
    };
    let mean = mean_of(over_rows(size, width, |part, sums| {
        add_rows(&xs[part], sums);
    }))?;
    let variance = mean_of(over_rows(size, width, |part, sums| {
        add_squares(&xs[part], &mean, sums);
    }))?;
    let scale = variance.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
    Ok(Columns {
        rows,
        mean,
        variance,
        scale,
    })
}

/// Normalised rows.
pub(super) fn forward(xs: &[f32], columns: &Columns, affine: Affine<'_>) -> Vec<f32> {
    let mut ys = vec![0f32; xs.len()];
    let task = rows_per_task(columns.mean.len()) * columns.mean.len();
    ys.par_chunks_mut(task)
        .zip(xs.par_chunks(task))
        .for_each(|(ys, xs)| forward_rows(xs, columns, affine, ys));
    ys
}

/// The gradients of weight and bias.
pub(super) fn backward_affine(xs: &[f32], columns: &Columns, grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let width = columns.mean.len();
    let size = (xs.len() / width, width);
    let mut dw = over_rows(size, 2 * width, |part, sums| {
        affine_rows(&xs[part.clone()], columns, &grad[part], sums);
    });
    let db = dw.split_off(width);
    (dw, db)
}

/// The gradient of the rows, given the gradients of weight and bias over the rows of all processes:
/// `w / deviation * (g - db / n - standardised x * dw / n)`.
pub(super) fn backward(
    xs: &[f32],
    columns: &Columns,
    weight: &[f32],
    grad: &[f32],
    (dw, db): Affine<'_>,
) -> Vec<f32> {
    let Columns { mean, scale, .. } = columns;
    let count = columns.rows as f32;
    let slope: Vec<f32> = weight.iter().zip(scale).map(|(w, s)| w * s).collect();
    let level: Vec<f32> = db.iter().map(|db| db / count).collect();
    let tilt: Vec<f32> = dw.iter().zip(scale).map(|(dw, s)| s * dw / count).collect();
    let mut dx = vec![0f32; xs.len()];
    let task = rows_per_task(mean.len()) * mean.len();
    dx.par_chunks_mut(task)
        .zip(xs.par_chunks(task))
        .zip(grad.par_chunks(task))
        .for_each(|((dx, xs), grad)| {
            backward_rows(xs, mean, [&slope, &level, &tilt], grad, dx);
        });
    dx
}
