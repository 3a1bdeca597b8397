//! The group maximum in candle operations.

use candle_core::Tensor;

use crate::Result;

/// See [`super::group_max()`].
pub(super) fn group_max(xs: &Tensor) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    let first = xs.detach().argmax_keepdim(1)?;
    Ok(xs.gather(&first, 1)?.squeeze(1)?)
}
