//! Products by the crate `gemm`, where no blocked kernel exists or none is faster.
//!
//! For bfloat16 it multiplies rounded f32 copies, at the speed of f32.

#![expect(
    unsafe_code,
    reason = "`gemm` takes raw pointers, and threads write rows of one output"
)]

use std::mem::MaybeUninit;

use gemm::Parallelism;
use rayon::prelude::*;

use super::Matrix;
use super::args::{Accumulate, GemmArgs};
use crate::alloc_uninit::alloc_uninit;
use crate::bfloat::round_in_f32;
use crate::partition::rows_per_task;
use crate::precision::Precision;

/// Computes a product; no output size may be 0.
///
/// # Safety
///
/// As for [`super::cpu::multiply`], and the inner sizes must match.
pub(super) unsafe fn multiply(call: GemmArgs<'_>, precision: Precision) {
    let GemmArgs {
        lhs, rhs, parallel, ..
    } = call;
    // SAFETY: the caller guarantees `to`.
    unsafe {
        if precision == Precision::F32 || lhs.cols == 0 {
            return by_gemm(call);
        }
        let [left, right] = [lhs, rhs].map(|matrix| rounded(matrix, parallel));
        let [lhs, rhs] = [(&left, lhs), (&right, rhs)].map(|(values, like)| Matrix {
            values,
            ..like.without_gaps()
        });
        by_gemm(GemmArgs { lhs, rhs, ..call });
    }
}

/// A copy of the matrix without gaps, in its memory order, rounded to bfloat16.
fn rounded(matrix: Matrix<'_>, parallel: bool) -> Vec<f32> {
    let [lines, len, stride] = match matrix.col_stride {
        1 => [matrix.rows, matrix.cols, matrix.row_stride],
        stride => [matrix.cols, matrix.rows, stride],
    };
    let round = |(line, room): (usize, &mut [MaybeUninit<f32>])| {
        round_in_f32(&matrix.values[line * stride..][..len], room);
    };
    // SAFETY: the lines cover all values.
    unsafe {
        alloc_uninit(lines * len, |room| {
            if parallel {
                let lines = room.par_chunks_mut(len).enumerate();
                lines.with_min_len(rows_per_task(len)).for_each(round);
            } else {
                room.chunks_mut(len).enumerate().for_each(round);
            }
        })
    }
}

impl GemmArgs<'_> {
    /// Initialises an output row (bias or zero) unless accumulating.
    ///
    /// # Safety
    ///
    /// As [`multiply`], for this row.
    unsafe fn begin_row(&self, row: usize) {
        let Self { to, rhs, .. } = *self;
        let place = row * to.row_stride;
        let start = to.start.wrapping_add(place);
        // SAFETY: the caller guarantees the room.
        unsafe {
            match to.init {
                Accumulate::Row(values) => {
                    start.copy_from_nonoverlapping(values.as_ptr(), rhs.cols)
                }
                Accumulate::Rows { row: values, more } => {
                    let sums = values.iter().zip(&more[place..]).map(|(a, b)| a + b);
                    sums.enumerate()
                        .for_each(|(col, sum)| start.add(col).write(sum));
                }
                Accumulate::Zero => start.write_bytes(0, rhs.cols),
                Accumulate::Sum => {}
            }
        }
    }
}

/// Computes the product by `gemm`, which supports every CPU.
///
/// # Safety
///
/// As [`multiply`].
unsafe fn by_gemm(call: GemmArgs<'_>) {
    let GemmArgs {
        to,
        scale,
        lhs,
        rhs,
        parallel,
    } = call;
    let empty = lhs.cols == 0;
    if matches!(to.init, Accumulate::Row(_) | Accumulate::Rows { .. }) || empty {
        // SAFETY: the caller guarantees `to`; rows do not overlap.
        let begin = |row| unsafe { call.begin_row(row) };
        if parallel {
            let rows = (0..lhs.rows).into_par_iter();
            rows.with_min_len(rows_per_task(rhs.cols)).for_each(begin);
        } else {
            (0..lhs.rows).for_each(begin);
        }
    }
    if empty {
        return;
    }
    let threads = match rayon::current_num_threads() {
        threads if parallel && threads > 1 => Parallelism::Rayon(threads),
        _ => Parallelism::None,
    };
    // Slices hold at most isize::MAX bytes, so strides inside them fit.
    let signed = usize::cast_signed;
    // SAFETY: `Matrix` keeps its views inside their slices; the caller guarantees `to`.
    unsafe {
        gemm::gemm(
            lhs.rows,
            rhs.cols,
            lhs.cols,
            to.start,
            1,
            signed(to.row_stride),
            !matches!(to.init, Accumulate::Zero),
            lhs.values.as_ptr(),
            signed(lhs.col_stride),
            signed(lhs.row_stride),
            rhs.values.as_ptr(),
            signed(rhs.col_stride),
            signed(rhs.row_stride),
            1.0,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}
