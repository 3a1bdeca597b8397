//! f32 kernels of the linear layer.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use candle_core::Result;
use rayon::prelude::*;

use crate::matmul::{Accumulate, Matrix, add_product, product};
use crate::partition::{add_partials, rows_per_partial};
use crate::simd::multiversion;

/// Sizes of a linear layer's operands: `xs` is `[rows, inputs]`, `weight` is `[outputs, inputs]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

/// `xs weightᵀ + bias`, `[rows, outputs]`.
pub(super) fn forward(
    xs: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    sizes: Sizes,
) -> Result<Vec<f32>> {
    let xs = Matrix::dense(xs, sizes.rows, sizes.inputs)?;
    let weight = Matrix::dense(weight, sizes.outputs, sizes.inputs)?.transposed();
    product(xs, weight, bias.map_or(Accumulate::Zero, Accumulate::Row))
}

/// `xs weightᵀ + bias + more`, `[rows, outputs]`.
pub(super) fn forward_added(
    xs: &[f32],
    weight: &[f32],
    (bias, more): (&[f32], &[f32]),
    sizes: Sizes,
) -> Result<Vec<f32>> {
    let xs = Matrix::dense(xs, sizes.rows, sizes.inputs)?;
    let weight = Matrix::dense(weight, sizes.outputs, sizes.inputs)?.transposed();
    product(xs, weight, Accumulate::Rows { row: bias, more })
}

/// The gradient of `xs`: `grad weight`.
pub(super) fn backward_input(grad: &[f32], weight: &[f32], sizes: Sizes) -> Result<Vec<f32>> {
    let grad = Matrix::dense(grad, sizes.rows, sizes.outputs)?;
    product(
        grad,
        Matrix::dense(weight, sizes.outputs, sizes.inputs)?,
        Accumulate::Zero,
    )
}

/// The gradient of `weight`: `gradᵀ xs`.
pub(super) fn backward_weight(grad: &[f32], xs: &[f32], sizes: Sizes) -> Result<Vec<f32>> {
    let grad = Matrix::dense(grad, sizes.rows, sizes.outputs)?;
    product(
        grad.transposed(),
        Matrix::dense(xs, sizes.rows, sizes.inputs)?,
        Accumulate::Zero,
    )
}

/// `sum` and the gradient of `weight`, added up.
pub(super) fn add_backward_weight(
    mut sum: Vec<f32>,
    grad: &[f32],
    xs: &[f32],
    sizes: Sizes,
) -> Result<Vec<f32>> {
    let grad = Matrix::dense(grad, sizes.rows, sizes.outputs)?;
    let xs = Matrix::dense(xs, sizes.rows, sizes.inputs)?;
    add_product(&mut sum, grad.transposed(), xs)?;
    Ok(sum)
}

multiversion! {
    fn add_rows(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}

/// The gradient of the bias: the sum of the rows of `grad`.
pub(super) fn backward_bias(grad: &[f32], sizes: Sizes) -> Vec<f32> {
    let width = sizes.outputs;
    let rows = rows_per_partial(sizes.rows, width);
    let mut partials = vec![0f32; sizes.rows.div_ceil(rows) * width];
    partials
        .par_chunks_mut(width)
        .zip(grad.par_chunks(rows * width))
        .for_each(|(sums, rows)| add_rows(rows, sums));
    add_partials(&partials, width)
}
