//! The step of LARS in candle operations.

use super::LarsParam;
use crate::Result;
use crate::cpu_slices::{accumulation_dtype, overwrite};
use crate::sum_squares;

/// See [`super::lars_steps`]; computed in f32 at least.
pub(super) fn lars_step(moving: &LarsParam<'_>) -> Result<()> {
    let (step, wide) = (&moving.step, accumulation_dtype(moving.param.dtype()));
    let param = moving.param.detach().to_dtype(wide)?;
    let grad = moving.grad.detach().to_dtype(wide)?;
    let grad = (grad + (&param * step.weight_decay)?)?;
    let scale = match step.trust {
        None => 1.,
        Some(trust) => match (sum_squares(&param)?.sqrt(), sum_squares(&grad)?.sqrt()) {
            (param, grad) if param > 0. && grad > 0. => trust * param / grad,
            _ => 1.,
        },
    };
    let kept = (moving.momentum.detach().to_dtype(wide)? * step.momentum)?;
    let momentum = (kept + (grad * scale)?)?;
    overwrite(moving.param, &(param - (&momentum * step.lr)?)?)?;
    overwrite(moving.momentum, &momentum)
}
