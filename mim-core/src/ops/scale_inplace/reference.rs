//! Scaling in candle operations.

use candle_core::Tensor;

use crate::Result;
use crate::ops::host::{overwrite, wide};

/// See [`super::scale_inplace()`]; computed in f32 at least.
pub(super) fn scale_inplace(xs: &Tensor, factor: f64) -> Result<()> {
    let scaled = (xs.detach().to_dtype(wide(xs.dtype()))? * factor)?;
    overwrite(xs, &scaled)
}
