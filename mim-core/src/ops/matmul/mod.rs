//! Matrix products on strided views of f32 slices.

mod cpu;

use candle_core::{Result, bail};
pub(super) use cpu::{Destination, multiply, multiply_into, product};

/// A matrix laid over a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix whose rows start `row_stride` values apart.
    ///
    /// Fails if it would reach beyond the slice.
    pub(super) fn new(
        values: &'a [f32],
        [rows, cols]: [usize; 2],
        row_stride: usize,
    ) -> Result<Self> {
        let needed = match (rows, cols) {
            (0, _) | (_, 0) => 0,
            _ => (rows - 1) * row_stride + cols,
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
    pub(super) fn dense(values: &'a [f32], rows: usize, cols: usize) -> Result<Self> {
        Self::new(values, [rows, cols], cols)
    }

    /// The same values with rows and columns swapped.
    pub(super) fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_strided_and_transposed_matrices() {
        // [[1, 2], [3, 4]] with a gap, times the transpose of [[5, 6]].
        let a = Matrix::new(&[1., 2., 9., 3., 4.], [2, 2], 3).unwrap();
        let b = Matrix::dense(&[5., 6.], 1, 2).unwrap().transposed();
        assert_eq!(product(a, b).unwrap(), [17., 39.]);
        let mut sum = vec![1., 1.];
        multiply_into(&mut sum, 2.0, a, b).unwrap();
        assert_eq!(sum, [35., 79.]);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert!(Matrix::dense(&[1., 2.], 2, 2).is_err());
        let a = Matrix::dense(&[1., 2.], 1, 2).unwrap();
        assert!(product(a, a).is_err());
        assert!(multiply_into(&mut [0.; 2], 1.0, a, a.transposed()).is_err());
    }

    #[test]
    fn empty_products_are_zero() {
        let a = Matrix::dense(&[], 2, 0).unwrap();
        assert_eq!(product(a, a.transposed()).unwrap(), [0.; 4]);
        let a = Matrix::dense(&[], 0, 2).unwrap();
        assert!(product(a, a.transposed()).unwrap().is_empty());
    }
}
