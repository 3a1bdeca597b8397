//! Arguments of a matrix product.

#![expect(unsafe_code, reason = "threads write to one result")]

use super::Matrix;

/// What a product is added to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Accumulate<'a> {
    /// Nothing: what was there is replaced.
    Zero,
    /// What is there.
    Sum,
    /// These values in every row, one for each column.
    Row(&'a [f32]),
    /// As `Row`, and a matrix that lies as the product does.
    Rows { row: &'a [f32], more: &'a [f32] },
}

impl Accumulate<'_> {
    /// For the part of a product whose first value is this far from its own.
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

/// Where a product goes: row-major, rows `row_stride` values apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination<'a> {
    pub(crate) start: *mut f32,
    pub(crate) row_stride: usize,
    pub(crate) init: Accumulate<'a>,
}

/// A product `scale * lhs * rhs`, and where it goes.
#[derive(Clone, Copy)]
pub(super) struct GemmArgs<'a> {
    pub(super) to: Destination<'a>,
    pub(super) scale: f32,
    pub(super) lhs: Matrix<'a>,
    pub(super) rhs: Matrix<'a>,
    /// On all threads, or on the calling one.
    pub(super) parallel: bool,
}

// SAFETY: threads write through `to` to parts of their own.
unsafe impl Sync for GemmArgs<'_> {}

#[cfg(target_arch = "x86_64")]
impl GemmArgs<'_> {
    /// Whether packing costs more than it brings: `gemm` reads small operands where they lie.
    pub(super) fn is_small(&self) -> bool {
        /// Multiplications from which a product on all threads is large.
        const LARGE: usize = 1 << 27;
        !self.parallel || self.lhs.rows * self.lhs.cols * self.rhs.cols < LARGE
    }
}
