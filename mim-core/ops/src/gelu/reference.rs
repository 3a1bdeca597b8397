//! GELU in candle operations.

use candle_core::Tensor;

use crate::Result;

/// See [`super::gelu`].
pub(super) fn gelu(xs: &Tensor) -> Result<Tensor> {
    Ok(xs.gelu_erf()?)
}
