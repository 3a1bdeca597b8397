//! Scaling in candle operations.

use candle_core::Tensor;

use crate::Result;
use crate::cpu_slices::{accumulation_dtype, overwrite};

/// `xs ← factor * xs`, computed in f32 at least.
pub(super) fn scale(xs: &Tensor, factor: f64) -> Result<()> {
    let scaled = (xs.detach().to_dtype(accumulation_dtype(xs.dtype()))? * factor)?;
    overwrite(xs, &scaled)
}
