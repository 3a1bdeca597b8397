//! Matrix products, by cuBLAS.

#[cfg(feature = "cuda")]
use candle_core::Device;
use candle_core::{DType, Result, Tensor, bail};

use super::{Buffer, no_kernels};

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

    fn size(&self) -> (usize, usize) {
        match self.transposed {
            false => (self.rows, self.cols),
            true => (self.cols, self.rows),
        }
    }
}

/// A checked product `[m, k] [k, n]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) factors: [Factor<'a>; 2],
    pub(super) sizes: [usize; 3],
    /// Whether the product is added to what is there.
    pub(super) add: bool,
}

/// `to = a b`, or `to += a b`: both factors of one type, f32 or bf16, `to` of either; sums are in f32.
///
/// TF32 is not used: f32 is f32.
///
/// # Errors
///
/// If sizes or types do not fit together, or the device fails.
pub(crate) fn product(a: Factor<'_>, b: Factor<'_>, to: &mut Buffer, add: bool) -> Result<()> {
    let ((m, k), (inner, n)) = (a.size(), b.size());
    let types = (a.values.dtype(), b.values.dtype(), to.dtype());
    let fits = matches!(
        types,
        (DType::F32, DType::F32, DType::F32) | (DType::BF16, DType::BF16, DType::F32 | DType::BF16)
    );
    if k != inner || to.shape().elem_count() != m * n || !fits {
        bail!(
            "product of {types:?}: [{m}, {k}] and [{inner}, {n}] into {:?}",
            to.shape()
        );
    }
    if m * n == 0 {
        return Ok(());
    }
    super::launch::count();
    let call = Call {
        factors: [a, b],
        sizes: [m, k, n],
        add,
    };
    match a.values.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => super::cuda::product(device, call, to),
        device => {
            let _ = call;
            Err(no_kernels("a product", device))
        }
    }
}
