//! Matrix products on strided views of f32 slices.

mod args;
#[cfg(target_arch = "x86_64")]
mod blocked;
mod blocks;
mod cpu;
mod fallback;

pub(super) use args::{Accumulate, Destination};
#[cfg(target_arch = "x86_64")]
pub(super) use blocked::has_amx;
pub use blocks::MatmulBlocks;
use candle_core::{Result, bail};
pub(super) use cpu::{add_product, multiply, product};

/// The product of two matrices, on all threads, in the precision of [`with_precision`](crate::with_precision).
///
/// It returns `lhs.rows * rhs.cols` values, row by row.
///
/// ```
/// use mim_ops::{Matrix, matmul};
///
/// let xs = Matrix::dense(&[1., 2., 3., 4.], 2, 2)?;
/// // Transposed views are read as they are, without a copy.
/// assert_eq!(matmul(xs, xs.transposed())?, [5., 11., 11., 25.]);
/// # Ok::<(), mim_ops::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Tensor`](crate::Error::Tensor) unless `lhs` has as many columns as `rhs` has rows.
pub fn matmul(lhs: Matrix<'_>, rhs: Matrix<'_>) -> crate::Result<Vec<f32>> {
    Ok(product(lhs, rhs, Accumulate::Zero)?)
}

/// A strided matrix view of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix whose rows start `row_stride` values apart.
    ///
    /// # Errors
    ///
    /// An error if it would exceed the slice.
    pub fn new(values: &'a [f32], [rows, cols]: [usize; 2], row_stride: usize) -> Result<Self> {
        let needed = match (rows, cols) {
            (0, _) | (_, 0) => 0,
            _ => (rows - 1).saturating_mul(row_stride).saturating_add(cols),
        };
        if needed > values.len() {
            bail!(
                "a {rows} x {cols} matrix needs {needed} values, got {}",
                values.len()
            );
        }
        Ok(Self {
            values,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        })
    }

    /// A row-major matrix that fills the slice without gaps.
    ///
    /// # Errors
    ///
    /// An error if the slice has too few values.
    pub fn dense(values: &'a [f32], rows: usize, cols: usize) -> Result<Self> {
        Self::new(values, [rows, cols], cols)
    }

    /// At most `count` columns from number `first` on; `first` must exist.
    #[cfg(target_arch = "x86_64")]
    fn cols_from(self, first: usize, count: usize) -> Self {
        Self {
            values: &self.values[first * self.col_stride..],
            cols: count.min(self.cols - first),
            ..self
        }
    }

    /// The transposed view.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// A view of the same size and memory order, for a slice without gaps.
    fn without_gaps(self) -> Self {
        match self.col_stride {
            1 => Self {
                row_stride: self.cols,
                ..self
            },
            _ => Self {
                col_stride: self.rows,
                ..self
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::{Precision, with_precision};
    use crate::testing::random;

    fn numbers(seed: u64, len: usize) -> Vec<f32> {
        random(seed, &[len]).to_vec1().unwrap()
    }

    /// The product in f64.
    fn exact(lhs: Matrix<'_>, rhs: Matrix<'_>) -> Vec<f64> {
        let at = |m: Matrix<'_>, row: usize, col: usize| {
            f64::from(m.values[row * m.row_stride + col * m.col_stride])
        };
        let rows = (0..lhs.rows).flat_map(|row| (0..rhs.cols).map(move |col| (row, col)));
        rows.map(|(row, col)| {
            (0..lhs.cols)
                .map(|k| at(lhs, row, k) * at(rhs, k, col))
                .sum()
        })
        .collect()
    }

    fn close(got: &[f32], wanted: &[f64], tolerance: f64) {
        assert_eq!(got.len(), wanted.len());
        let scale = wanted.iter().fold(1f64, |largest, x| largest.max(x.abs()));
        for (got, wanted) in got.iter().zip(wanted) {
            let error = (f64::from(*got) - wanted).abs() / scale;
            assert!(error < tolerance, "{got} instead of {wanted}");
        }
    }

    #[test]
    fn multiplies_strided_and_transposed_matrices() {
        // [[1, 2], [3, 4]] with a gap, times the transpose of [[5, 6]].
        let a = Matrix::new(&[1., 2., 9., 3., 4.], [2, 2], 3).unwrap();
        let b = Matrix::dense(&[5., 6.], 1, 2).unwrap().transposed();
        assert_eq!(product(a, b, Accumulate::Zero).unwrap(), [17., 39.]);
        assert_eq!(product(a, b, Accumulate::Row(&[1.])).unwrap(), [18., 40.]);
        let mut sum = vec![1., 1.];
        add_product(&mut sum, a, b).unwrap();
        assert_eq!(sum, [18., 40.]);
    }

    #[test]
    fn every_size_and_orientation_in_both_precisions() {
        for [rows, inner, cols] in [
            [1, 1, 1],
            [3, 2, 5],
            [14, 16, 32],
            [15, 17, 33],
            [29, 801, 65],
            [150, 70, 140],
        ] {
            let (a, b, start) = (
                numbers(1, rows * inner),
                numbers(2, inner * cols),
                numbers(3, cols),
            );
            for turn in 0..4 {
                let lhs = match turn & 1 {
                    0 => Matrix::dense(&a, rows, inner).unwrap(),
                    _ => Matrix::dense(&a, inner, rows).unwrap().transposed(),
                };
                let rhs = match turn & 2 {
                    0 => Matrix::dense(&b, inner, cols).unwrap(),
                    _ => Matrix::dense(&b, cols, inner).unwrap().transposed(),
                };
                let wanted = exact(lhs, rhs);
                for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::Bf16, 1e-2)] {
                    with_precision(precision, || {
                        close(
                            &product(lhs, rhs, Accumulate::Zero).unwrap(),
                            &wanted,
                            tolerance,
                        );
                        let more = wanted.iter().enumerate();
                        let more: Vec<f64> =
                            more.map(|(i, x)| x + f64::from(start[i % cols])).collect();
                        let mut with_row = product(lhs, rhs, Accumulate::Row(&start)).unwrap();
                        close(&with_row, &more, tolerance);
                        add_product(&mut with_row, lhs, rhs).unwrap();
                        let twice: Vec<f64> =
                            more.iter().zip(&wanted).map(|(a, b)| a + b).collect();
                        close(&with_row, &twice, tolerance);
                        let init = Accumulate::Rows {
                            row: &start,
                            more: &with_row,
                        };
                        let thrice: Vec<f64> =
                            twice.iter().zip(&more).map(|(a, b)| a + b).collect();
                        close(&product(lhs, rhs, init).unwrap(), &thrice, tolerance);
                    });
                }
            }
        }
    }

    #[test]
    fn bf16_rounds_only_the_operands() {
        // Operands that bfloat16 represents exactly; their sums need more bits.
        let a: Vec<f32> = (0u8..60).map(|i| f32::from(i) - 30.).collect();
        let b: Vec<f32> = (0u8..80).map(|i| f32::from(i) * 0.5).collect();
        let (lhs, rhs) = (
            Matrix::dense(&a, 3, 20).unwrap(),
            Matrix::dense(&b, 20, 4).unwrap(),
        );
        let rounded = with_precision(Precision::Bf16, || {
            product(lhs, rhs, Accumulate::Zero).unwrap()
        });
        assert_eq!(rounded, product(lhs, rhs, Accumulate::Zero).unwrap());
        let third = [1. / 3.];
        let third = Matrix::dense(&third, 1, 1).unwrap();
        let square = with_precision(Precision::Bf16, || {
            product(third, third, Accumulate::Zero).unwrap()
        });
        let rounded = 0.333_984_38f32;
        assert_eq!(square, [rounded * rounded]);
    }

    #[test]
    fn refuses_mismatched_sizes() {
        assert!(Matrix::dense(&[1., 2.], 2, 2).is_err());
        let a = Matrix::dense(&[1., 2.], 1, 2).unwrap();
        assert!(product(a, a, Accumulate::Zero).is_err());
        assert!(product(a, a.transposed(), Accumulate::Row(&[1., 2.])).is_err());
        assert!(add_product(&mut [0.; 2], a, a.transposed()).is_err());
        assert!(product(a, a.transposed(), Accumulate::Sum).is_err());
        let init = Accumulate::Rows {
            row: &[1.],
            more: &[1., 2.],
        };
        assert!(product(a, a.transposed(), init).is_err());
    }

    #[test]
    fn empty_products_are_zero() {
        let a = Matrix::dense(&[], 2, 0).unwrap();
        assert_eq!(
            product(a, a.transposed(), Accumulate::Zero).unwrap(),
            [0.; 4]
        );
        assert_eq!(
            product(a, a.transposed(), Accumulate::Row(&[1., 2.])).unwrap(),
            [1., 2., 1., 2.]
        );
        let a = Matrix::dense(&[], 0, 2).unwrap();
        assert!(
            product(a, a.transposed(), Accumulate::Zero)
                .unwrap()
                .is_empty()
        );
    }
}
