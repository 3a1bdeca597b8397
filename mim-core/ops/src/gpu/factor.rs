//! Operands of matrix products.

use candle_core::Tensor;

/// An operand: a contiguous tensor viewed as a matrix of `cols` columns, or its transpose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub(super) values: &'a Tensor,
    /// Rows in memory order.
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) transposed: bool,
}

impl<'a> Factor<'a> {
    /// A matrix of `cols` columns.
    pub(crate) fn matrix(values: &'a Tensor, cols: usize) -> Self {
        Self {
            values,
            rows: values.elem_count() / cols,
            cols,
            transposed: false,
        }
    }

    /// Rows in memory order.
    pub(crate) fn height(&self) -> usize {
        self.rows
    }

    pub(crate) fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    pub(super) fn size(&self) -> (usize, usize) {
        match self.transposed {
            false => (self.rows, self.cols),
            true => (self.cols, self.rows),
        }
    }
}

/// A checked product `[m, k] [k, n]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProductArgs<'a> {
    pub(super) factors: [Factor<'a>; 2],
    pub(super) sizes: [usize; 3],
    /// Whether to add the product to the destination.
    pub(super) add: bool,
}
