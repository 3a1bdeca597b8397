//! f32 kernels of the group maximum, without unsafe code.

use rayon::prelude::*;

use crate::partition::rows_per_task;

/// The maximum over `rows` rows of `dim` values, group by group.
pub(super) fn forward(xs: &[f32], rows: usize, dim: usize) -> Vec<f32> {
    let groups = xs.len() / (rows * dim);
    let mut ys = vec![0f32; groups * dim];
    let task = rows_per_task(rows * dim);
    ys.par_chunks_mut(task * dim)
        .zip(xs.par_chunks(task * rows * dim))
        .for_each(|(ys, xs)| {
            let groups = ys.chunks_exact_mut(dim).zip(xs.chunks_exact(rows * dim));
            for (y, xs) in groups {
                let (first, rest) = xs.split_at(dim);
                y.copy_from_slice(first);
                for row in rest.chunks_exact(dim) {
                    for (y, x) in y.iter_mut().zip(row) {
                        *y = if *x > *y { *x } else { *y };
                    }
                }
            }
        });
    ys
}

/// Sends the gradient of each group to the first row that holds the maximum.
pub(super) fn backward(
    (xs, ys): (&[f32], &[f32]),
    grad: &[f32],
    rows: usize,
    dim: usize,
) -> Vec<f32> {
    let mut dx = vec![0f32; xs.len()];
    let task = rows_per_task(rows * dim);
    dx.par_chunks_mut(task * rows * dim)
        .zip(xs.par_chunks(task * rows * dim))
        .zip(ys.par_chunks(task * dim).zip(grad.par_chunks(task * dim)))
        .for_each(|((dx, xs), (ys, grad))| {
            let groups = dx
                .chunks_exact_mut(rows * dim)
                .zip(xs.chunks_exact(rows * dim));
            let results = ys.chunks_exact(dim).zip(grad.chunks_exact(dim));
            let mut left = vec![0f32; dim];
            for ((dx, xs), (y, grad)) in groups.zip(results) {
                left.copy_from_slice(grad);
                for (dx, xs) in dx.chunks_exact_mut(dim).zip(xs.chunks_exact(dim)) {
                    for (((dx, x), y), left) in dx.iter_mut().zip(xs).zip(y).zip(&mut left) {
                        let here = *x == *y;
                        *dx = if here { *left } else { 0. };
                        *left = if here { 0. } else { *left };
                    }
                }
            }
        });
    dx
}
