//! Scaling in candle operations.

use candle_core::Tensor;

use crate::Result;
use crate::cpu_slices::{overwrite, wide};

/// `xs ← factor * xs`, computed in f32 at least.
pub(super) fn scale(xs: &Tensor, factor: f64) -> Result<()> {
    let scaled = (xs.detach().to_dtype(wide(xs.dtype()))? * factor)?;
    overwrite(xs, &scaled)
}
