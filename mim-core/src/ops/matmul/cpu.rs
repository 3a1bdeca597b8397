//! The calls into `gemm`.

#![expect(
    unsafe_code,
    reason = "gemm takes raw pointers; views are checked here"
)]

use candle_core::{Result, bail};
use gemm::Parallelism;

use super::Matrix;

/// Where a product goes: row-major, rows `row_stride` values apart.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Destination {
    pub(in crate::ops) start: *mut f32,
    pub(in crate::ops) row_stride: usize,
    /// Adds to what is there instead of replacing it.
    pub(in crate::ops) accumulate: bool,
}

fn check(lhs: Matrix, rhs: Matrix) -> Result<()> {
    if lhs.cols != rhs.rows {
        bail!(
            "cannot multiply {} x {} by {} x {}",
            lhs.rows,
            lhs.cols,
            rhs.rows,
            rhs.cols
        );
    }
    Ok(())
}

fn all_threads() -> Parallelism {
    match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    }
}

/// `lhs * rhs`, on all threads.
pub(in crate::ops) fn product(lhs: Matrix, rhs: Matrix) -> Result<Vec<f32>> {
    check(lhs, rhs)?;
    let len = lhs.rows * rhs.cols;
    if lhs.cols == 0 {
        return Ok(vec![0.0; len]);
    }
    let mut out = Vec::<f32>::with_capacity(len);
    let to = Destination {
        start: out.as_mut_ptr(),
        row_stride: rhs.cols,
        accumulate: false,
    };
    // SAFETY: the vector has room for `len` values and nobody else sees it; a product that does
    // not accumulate only writes, and writes every value.
    unsafe {
        multiply_raw(to, 1.0, lhs, rhs, all_threads());
        out.set_len(len);
    }
    Ok(out)
}

/// `out += scale * lhs * rhs` with dense `out`, on all threads.
pub(in crate::ops) fn multiply_into(
    out: &mut [f32],
    scale: f32,
    lhs: Matrix,
    rhs: Matrix,
) -> Result<()> {
    check(lhs, rhs)?;
    if out.len() != lhs.rows * rhs.cols {
        bail!(
            "a product of {} x {} values does not fit {}",
            lhs.rows,
            rhs.cols,
            out.len()
        );
    }
    let to = Destination {
        start: out.as_mut_ptr(),
        row_stride: rhs.cols,
        accumulate: true,
    };
    // SAFETY: `out` is ours alone and has exactly the size of the product.
    unsafe { multiply_raw(to, scale, lhs, rhs, all_threads()) };
    Ok(())
}

/// `to = scale * lhs * rhs` on the calling thread, for use inside parallel loops.
///
/// # Safety
///
/// `to` must have room for `lhs.rows` rows of `rhs.cols` values that no other thread touches, and
/// hold initialised values if it accumulates.
pub(in crate::ops) unsafe fn multiply(
    to: Destination,
    scale: f32,
    lhs: Matrix,
    rhs: Matrix,
) -> Result<()> {
    check(lhs, rhs)?;
    // SAFETY: the caller vouches for `to`.
    unsafe { multiply_raw(to, scale, lhs, rhs, Parallelism::None) };
    Ok(())
}

/// # Safety
///
/// As [`multiply`], and the inner sizes must agree.
unsafe fn multiply_raw(
    to: Destination,
    scale: f32,
    lhs: Matrix,
    rhs: Matrix,
    parallelism: Parallelism,
) {
    // Slices hold at most isize::MAX bytes, so strides inside them fit.
    let signed = usize::cast_signed;
    // SAFETY: `Matrix` keeps its views inside their slices; the caller vouches for `to`.
    unsafe {
        gemm::gemm(
            lhs.rows,
            rhs.cols,
            lhs.cols,
            to.start,
            1,
            signed(to.row_stride),
            to.accumulate,
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
            parallelism,
        );
    }
}
