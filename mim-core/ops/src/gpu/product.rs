//! Matrix products by cuBLAS.

#[cfg(feature = "cuda")]
use candle_core::Device;
use candle_core::{DType, Result, bail};

use super::factor::{Factor, ProductArgs};
use super::{Buffer, no_kernels};

/// `to = a b`, or `to += a b` with `add`. Both operands have one dtype, f32 or bf16; `to` has either. Sums are f32.
///
/// TF32 is off: f32 products are full f32.
///
/// # Errors
///
/// Fails if sizes or dtypes do not match, or if the device fails.
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
    let args = ProductArgs {
        factors: [a, b],
        sizes: [m, k, n],
        add,
    };
    match a.values.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => super::cuda::product(device, args, to),
        device => {
            let _ = args;
            Err(no_kernels("a product", device))
        }
    }
}
