//! f32 kernels of the factors on a residual branch: per column (layer scale) and per sample (drop path).

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them; outputs start uninitialised"
)]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::alloc_uninit::alloc_uninit;
use crate::partition::{add_partials, rows_per_partial, rows_per_task};
use crate::simd::multiversion;

/// The factors of a branch with rows of `width` values and `sample` values per sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors<'a> {
    pub(super) columns: Option<&'a [f32]>,
    pub(super) samples: Option<&'a [f32]>,
    pub(super) width: usize,
    pub(super) sample: usize,
}

impl Factors<'_> {
    /// The factor of the sample that contains row `row`.
    fn of_row(&self, row: usize) -> f32 {
        match self.samples {
            Some(samples) => samples[row * self.width / self.sample],
            None => 1.,
        }
    }
}

multiversion! {
    /// `to = from + factor * columns * branch`; without `from`, nothing is added.
    fn one_row(from: Option<&[f32]>, branch: &[f32], columns: Option<&[f32]>, factor: f32, to: &mut [MaybeUninit<f32>]) {
        match (from, columns) {
            (Some(from), Some(columns)) => {
                for (((to, x), y), c) in to.iter_mut().zip(from).zip(branch).zip(columns) {
                    to.write(x + factor * c * y);
                }
            }
            (Some(from), None) => {
                for ((to, x), y) in to.iter_mut().zip(from).zip(branch) {
                    to.write(x + factor * y);
                }
            }
            (None, Some(columns)) => {
                for ((to, y), c) in to.iter_mut().zip(branch).zip(columns) {
                    to.write(factor * c * y);
                }
            }
            (None, None) => {
                for (to, y) in to.iter_mut().zip(branch) {
                    to.write(factor * y);
                }
            }
        }
    }
}

fn rows(from: Option<&[f32]>, branch: &[f32], factors: Factors<'_>) -> Vec<f32> {
    let width = factors.width;
    let task = rows_per_task(width);
    let one = |row: usize, to: &mut [MaybeUninit<f32>]| {
        let place = row * width..(row + 1) * width;
        let from = from.map(|from| &from[place.clone()]);
        let factor = factors.of_row(row);
        one_row(from, &branch[place], factors.columns, factor, to);
    };
    // SAFETY: the tasks cover all rows, and each row is written in full.
    unsafe {
        alloc_uninit(branch.len(), |to| {
            to.par_chunks_mut(task * width)
                .enumerate()
                .for_each(|(index, to)| {
                    let rows = to.chunks_exact_mut(width).enumerate();
                    rows.for_each(|(row, to)| one(index * task + row, to));
                });
        })
    }
}

/// `xs` plus the branch times its factors.
pub(super) fn add_branch(xs: &[f32], branch: &[f32], factors: Factors<'_>) -> Vec<f32> {
    rows(Some(xs), branch, factors)
}

/// A branch, or its gradient, times the factors.
pub(super) fn multiply(branch: &[f32], factors: Factors<'_>) -> Vec<f32> {
    rows(None, branch, factors)
}

multiversion! {
    fn add_products(grad: &[f32], branch: &[f32], factor: f32, sums: &mut [f32]) {
        for ((sum, g), y) in sums.iter_mut().zip(grad).zip(branch) {
            *sum += factor * g * y;
        }
    }
}

/// The gradient of the column factors.
pub(super) fn columns_gradient(grad: &[f32], branch: &[f32], factors: Factors<'_>) -> Vec<f32> {
    let width = factors.width;
    let task = rows_per_partial(grad.len() / width, width);
    let mut partials = vec![0f32; (grad.len() / width).div_ceil(task) * width];
    partials
        .par_chunks_mut(width)
        .zip(grad.par_chunks(task * width))
        .zip(branch.par_chunks(task * width))
        .enumerate()
        .for_each(|(index, ((sums, grad), branch))| {
            let rows = grad.chunks_exact(width).zip(branch.chunks_exact(width));
            for (row, (grad, branch)) in rows.enumerate() {
                add_products(grad, branch, factors.of_row(index * task + row), sums);
            }
        });
    add_partials(&partials, width)
}
