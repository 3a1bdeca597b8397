//! The step of AdamW in candle operations.

use candle_core::Tensor;

use super::AdamWStep;
use crate::Result;
use crate::cpu_slices::{accumulation_dtype, overwrite};

/// See [`super::adamw_step`]; computed in f32 at least.
pub(super) fn adamw_step(
    param: &Tensor,
    grad: &Tensor,
    exp_avg: &Tensor,
    exp_avg_sq: &Tensor,
    step: &AdamWStep,
) -> Result<()> {
    let widened = |xs: &Tensor| xs.detach().to_dtype(accumulation_dtype(xs.dtype()));
    let grad = grad.detach().to_dtype(widened(param)?.dtype())?;
    let (correction1, correction2) = step.corrections();
    let mean = ((widened(exp_avg)? * step.beta1)? + (&grad * (1.0 - step.beta1))?)?;
    let square = ((widened(exp_avg_sq)? * step.beta2)? + (grad.sqr()? * (1.0 - step.beta2))?)?;
    let denominator = ((square.sqrt()? / correction2.sqrt())? + step.eps)?;
    let decayed = (widened(param)? * (1.0 - step.lr * step.weight_decay))?;
    let change = ((&mean / denominator)? * (step.lr / correction1))?;
    overwrite(param, &(decayed - change)?)?;
    overwrite(exp_avg, &mean)?;
    overwrite(exp_avg_sq, &square)
}
