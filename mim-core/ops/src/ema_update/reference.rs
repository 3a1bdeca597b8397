//! The moving average in candle operations.

use candle_core::Tensor;

use crate::Result;
use crate::cpu_slices::{accumulation_dtype, overwrite};

/// See [`super::ema_update()`]; computed in f32 at least.
pub(super) fn ema_update(teacher: &Tensor, student: &Tensor, momentum: f64) -> Result<()> {
    let dtype = accumulation_dtype(teacher.dtype());
    let old = (teacher.detach().to_dtype(dtype)? * momentum)?;
    let new = (student.detach().to_dtype(dtype)? * (1.0 - momentum))?;
    overwrite(teacher, &(old + new)?)
}
