//! Arguments of a matrix product.

#![expect(unsafe_code, reason = "threads write to one output")]

use super::Matrix;

/// Initial values of a product.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Accumulate<'a> {
    /// Zero: the output is overwritten.
    Zero,
    /// The output itself (beta = 1).
    Sum,
    /// One value per column, the same in every row.
    Row(&'a [f32]),
    /// As `Row`, plus a matrix with the layout of the product.
    Rows { row: &'a [f32], more: &'a [f32] },
}

impl Accumulate<'_> {
    /// The initial values for the sub-matrix that starts at this offset.
    #[cfg(target_arch = "x86_64")]
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

/// Output of a product: row-major, rows `row_stride` values apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination<'a> {
    pub(crate) start: *mut f32,
    pub(crate) row_stride: usize,
    pub(crate) init: Accumulate<'a>,
}

/// A product `scale * lhs * rhs` and its output.
#[derive(Clone, Copy)]
pub(super) struct GemmArgs<'a> {
    pub(super) to: Destination<'a>,
    pub(super) scale: f32,
    pub(super) lhs: Matrix<'a>,
    pub(super) rhs: Matrix<'a>,
    /// Whether to use all threads or only the calling one.
    pub(super) parallel: bool,
}

// SAFETY: threads write through `to` to disjoint parts.
unsafe impl Sync for GemmArgs<'_> {}

#[cfg(target_arch = "x86_64")]
impl GemmArgs<'_> {
    /// Whether packing costs more than it saves: `gemm` reads small operands in place.
    pub(super) fn is_small(&self) -> bool {
        /// Number of multiplications from which a product on all threads counts as large.
        const LARGE: usize = 1 << 27;
        !self.parallel || self.lhs.rows * self.lhs.cols * self.rhs.cols < LARGE
    }
}
