//! Cross-entropy in candle operations.

use candle_core::{D, Tensor};
use candle_nn::ops::log_softmax;

use crate::Result;
use crate::cpu_slices::accumulation_dtype;

/// See [`super::cross_entropy()`]; computed in f32 at least.
pub(super) fn cross_entropy(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    let ids = ids.contiguous()?.unsqueeze(1)?;
    let chosen = logs(logits, temperature)?.gather(&ids, 1)?.squeeze(1)?;
    Ok(chosen.neg()?.to_dtype(logits.dtype())?)
}

/// See [`super::soft_cross_entropy`]; computed in f32 at least.
pub(super) fn soft_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    temperature: f64,
) -> Result<Tensor> {
    let logs = logs(logits, temperature)?;
    let times = logs.dim(0)? / targets.dim(0)?;
    let targets = targets.to_dtype(logs.dtype())?.repeat((times, 1))?;
    let sums = (targets * logs)?.sum(D::Minus1)?;
    Ok(sums.neg()?.to_dtype(logits.dtype())?)
}

fn logs(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    let logits = (logits.to_dtype(accumulation_dtype(logits.dtype()))? / temperature)?;
    Ok(log_softmax(&logits, D::Minus1)?)
}
