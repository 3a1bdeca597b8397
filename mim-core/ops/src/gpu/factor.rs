//! Operands of matrix products.

use candle_core::Tensor;

/// An operand: a contiguous tensor taken as a matrix of so many columns, or the transpose of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub(super) values: &'a Tensor,
    /// As the values lie in memory.
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) transposed: bool,
}

impl<'a> Factor<'a> {
    /// Rows of so many values.
    pub(crate) fn matrix(values: &'a Tensor, cols: usize) -> Self {
        Self {
            values,
            rows: values.elem_count() / cols,
            cols,
            transposed: false,
        }
    }

    /// Rows as the values lie in memory.
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
    /// Whether the product is added to what is there.
    pub(super) add: bool,
}
