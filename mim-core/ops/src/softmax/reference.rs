//! Softmax in candle operations.

use candle_core::{D, Tensor};

use crate::Result;
use crate::cpu_slices::accumulation_dtype;

/// See [`super::softmax()`]; exponentials and sums in f32 at least.
pub(crate) fn softmax(xs: &Tensor) -> Result<Tensor> {
    let ys = candle_nn::ops::softmax(&xs.to_dtype(accumulation_dtype(xs.dtype()))?, D::Minus1)?;
    Ok(ys.to_dtype(xs.dtype())?)
}
