//! The sum of squares in candle operations.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::cpu_slices::accumulation_dtype;

/// See [`super::sum_squares()`].
pub(super) fn sum_squares(xs: &Tensor) -> Result<f64> {
    let sum = xs
        .detach()
        .to_dtype(accumulation_dtype(xs.dtype()))?
        .sqr()?
        .sum_all()?;
    Ok(sum.to_dtype(DType::F64)?.to_scalar()?)
}
