//! Products of any size: in blocks of our own where the machine allows it, else by `gemm`.

#![expect(
    unsafe_code,
    reason = "kernels take raw pointers; views are checked here"
)]

use candle_core::{Result, bail};
use gemm::Parallelism;

use super::{Matrix, blocked};
use crate::ops::bfloat::{round_one, widen_one};
use crate::ops::precision::{Precision, precision};

/// What a product is added to.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) enum Init<'a> {
    /// Nothing: what was there is replaced.
    Zero,
    /// What is there.
    Sum,
    /// These values in every row, one for each column.
    Row(&'a [f32]),
    /// As `Row`, and a matrix that lies as the product does.
    Rows { row: &'a [f32], more: &'a [f32] },
}

impl Init<'_> {
    /// For the part of a product whose first value is this far from its own.
    #[inline(always)]
    pub(super) fn at(self, rows: usize, col: usize) -> Self {
        match self {
            Self::Row(row) => Self::Row(&row[col..]),
            Self::Rows { row, more } => Self::Rows {
                row: &row[col..],
                more: &more[rows + col..],
            },
            Self::Zero | Self::Sum => self,
        }
    }
}

/// Where a product goes: row-major, rows `row_stride` values apart.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Destination<'a> {
    pub(in crate::ops) start: *mut f32,
    pub(in crate::ops) row_stride: usize,
    pub(in crate::ops) init: Init<'a>,
}

fn check(lhs: Matrix<'_>, rhs: Matrix<'_>, init: Init<'_>) -> Result<()> {
    let (rows, cols) = (lhs.rows, rhs.cols);
    if lhs.cols != rhs.rows {
        let (inner, other) = (lhs.cols, rhs.rows);
        bail!("cannot multiply {rows} x {inner} by {other} x {cols}");
    }
    let (Init::Row(row) | Init::Rows { row, .. }) = init else {
        return Ok(());
    };
    if row.len() != cols {
        bail!("{} values do not start rows of {cols}", row.len());
    }
    match init {
        Init::Rows { more, .. } if more.len() != rows * cols => {
            bail!("{} values do not start {rows} x {cols}", more.len())
        }
        _ => Ok(()),
    }
}

/// `lhs * rhs`, added to anything but [`Init::Sum`], on all threads.
pub(in crate::ops) fn product(
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    init: Init<'_>,
) -> Result<Vec<f32>> {
    check(lhs, rhs, init)?;
    if matches!(init, Init::Sum) {
        bail!("a new product has no values to be added to");
    }
    let len = lhs.rows * rhs.cols;
    let mut out = Vec::<f32>::with_capacity(len);
    let to = Destination {
        start: out.as_mut_ptr(),
        row_stride: rhs.cols,
        init,
    };
    // SAFETY: the vector has room for `len` values and nobody else sees it; a product that adds to nothing
    // there only writes, and writes every value.
    unsafe {
        run(to, 1.0, lhs, rhs, precision(), true);
        out.set_len(len);
    }
    Ok(out)
}

/// `out += lhs * rhs` with dense `out`, on all threads.
pub(in crate::ops) fn add_product(out: &mut [f32], lhs: Matrix<'_>, rhs: Matrix<'_>) -> Result<()> {
    check(lhs, rhs, Init::Sum)?;
    if out.len() != lhs.rows * rhs.cols {
        let (rows, cols, len) = (lhs.rows, rhs.cols, out.len());
        bail!("a product of {rows} x {cols} values does not fit {len}");
    }
    let to = Destination {
        start: out.as_mut_ptr(),
        row_stride: rhs.cols,
        init: Init::Sum,
    };
    // SAFETY: `out` is ours alone and has exactly the size of the product.
    unsafe { run(to, 1.0, lhs, rhs, precision(), true) };
    Ok(())
}

/// `to = scale * lhs * rhs`, added to what `to` starts from, on the calling thread, for use inside parallel
/// loops, whose threads do not know the caller's precision.
///
/// # Safety
///
/// `to` must have room for `lhs.rows` rows of `rhs.cols` values that no other thread touches, and hold
/// initialised values if they are added to.
pub(in crate::ops) unsafe fn multiply(
    to: Destination<'_>,
    scale: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    precision: Precision,
) -> Result<()> {
    check(lhs, rhs, to.init)?;
    // SAFETY: the caller vouches for `to`.
    unsafe { run(to, scale, lhs, rhs, precision, false) };
    Ok(())
}

/// # Safety
///
/// As [`multiply`], and the sizes must agree.
unsafe fn run(
    to: Destination<'_>,
    scale: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    precision: Precision,
    parallel: bool,
) {
    if lhs.rows == 0 || rhs.cols == 0 {
        return;
    }
    // SAFETY: the caller vouches for `to`; what the machine has was asked for.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if lhs.cols > 0 && blocked::available(precision) {
            return blocked::multiply(to, scale, [lhs, rhs], precision, parallel);
        }
        anywhere(to, scale, [lhs, rhs], precision, parallel);
    }
}

/// The product on machines without instructions of our own for it.
///
/// # Safety
///
/// As [`run`].
unsafe fn anywhere(
    to: Destination<'_>,
    scale: f32,
    [lhs, rhs]: [Matrix<'_>; 2],
    precision: Precision,
    parallel: bool,
) {
    // SAFETY: the caller vouches for `to`.
    unsafe {
        match precision {
            Precision::F32 => portable(to, scale, lhs, rhs, parallel),
            Precision::Bf16 => {
                let [left, right] = [lhs, rhs].map(rounded);
                let dense = |values, like: Matrix<'_>| Matrix {
                    values,
                    row_stride: like.cols,
                    col_stride: 1,
                    ..like
                };
                portable(to, scale, dense(&left, lhs), dense(&right, rhs), parallel);
            }
        }
    }
}

/// The values of the matrix alone, row by row, rounded to bfloat16, ties to even.
fn rounded(matrix: Matrix<'_>) -> Vec<f32> {
    let places = (0..matrix.rows).flat_map(|row| {
        let start = row * matrix.row_stride;
        (0..matrix.cols).map(move |col| start + col * matrix.col_stride)
    });
    places
        .map(|place| widen_one(round_one(matrix.values[place])))
        .collect()
}

/// The product by `gemm`, which has code for every machine.
///
/// # Safety
///
/// As [`run`].
unsafe fn portable(
    to: Destination<'_>,
    scale: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    parallel: bool,
) {
    let start = |row: usize| to.start.wrapping_add(row * to.row_stride);
    for row in 0..lhs.rows {
        // SAFETY: the caller vouches for the room.
        unsafe {
            match to.init {
                Init::Row(values) => start(row).copy_from_nonoverlapping(values.as_ptr(), rhs.cols),
                Init::Rows { row: values, more } => {
                    let more = &more[row * to.row_stride..][..rhs.cols];
                    for (col, (a, b)) in values.iter().zip(more).enumerate() {
                        start(row).add(col).write(a + b);
                    }
                }
                Init::Zero if lhs.cols == 0 => start(row).write_bytes(0, rhs.cols),
                Init::Zero | Init::Sum => break,
            }
        }
    }
    if lhs.cols == 0 {
        return;
    }
    let threads = match rayon::current_num_threads() {
        threads if parallel && threads > 1 => Parallelism::Rayon(threads),
        _ => Parallelism::None,
    };
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
            !matches!(to.init, Init::Zero),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::precision::with_precision;
    use crate::ops::testing::random;

    #[test]
    fn other_machines_get_the_same_numbers() {
        let numbers = |seed, len| -> Vec<f32> { random(seed, &[len]).to_vec1().unwrap() };
        let (a, b, row) = (numbers(1, 20 * 40), numbers(2, 17 * 33), numbers(3, 17));
        for precision in [Precision::F32, Precision::Bf16] {
            for turned in [false, true] {
                // A part of a wider matrix, and one that lies across or along.
                let lhs = Matrix::new(&a, [20, 33], 40).unwrap();
                let rhs = match turned {
                    false => Matrix::dense(&b, 33, 17).unwrap(),
                    true => Matrix::dense(&b, 17, 33).unwrap().transposed(),
                };
                let wanted =
                    with_precision(precision, || product(lhs, rhs, Init::Row(&row))).unwrap();
                let mut got = vec![0f32; wanted.len()];
                let to = Destination {
                    start: got.as_mut_ptr(),
                    row_stride: 17,
                    init: Init::Row(&row),
                };
                // SAFETY: `got` holds 20 rows of 17 values.
                unsafe { anywhere(to, 1.0, [lhs, rhs], precision, true) };
                for (got, wanted) in got.iter().zip(&wanted) {
                    assert!(
                        (got - wanted).abs() < 1e-4,
                        "{precision:?}: {got}, {wanted}"
                    );
                }
            }
        }
    }
}
