//! Row gathering in candle operations.

use candle_core::Tensor;

use crate::Result;

/// See [`super::gather_rows()`].
pub(super) fn gather_rows(xs: &Tensor, ids: &Tensor) -> Result<Tensor> {
    Ok(xs.contiguous()?.index_select(ids, 0)?)
}
