//! Half blocks as chains of operations.

use candle_core::Tensor;

use super::{HalfBlock, Inner};
use crate::Result;
use crate::{attention, gelu, layer_norm, linear};

/// See [`super::residual_mlp`] and [`super::residual_attention`].
pub(super) fn residual(xs: &Tensor, half: &HalfBlock<'_>, inner: Inner<'_>) -> Result<Tensor> {
    let [first, second] = half.linears;
    let normed = layer_norm(xs, half.norm.weight, half.norm.bias, half.eps)?;
    let middle = linear(&normed, first.weight, Some(first.bias))?;
    let inside = match inner {
        Inner::Gelu => gelu(&middle)?,
        Inner::Attention { heads, scale, bias } => attention(&middle, heads, bias, scale)?,
    };
    let mut branch = linear(&inside, second.weight, Some(second.bias))?;
    if let Some(scale) = half.scale {
        branch = branch.broadcast_mul(scale)?;
    }
    if let Some(samples) = half.samples {
        let mut shape = vec![1; xs.rank()];
        shape[0] = samples.len();
        let samples = Tensor::from_slice(samples, shape, xs.device())?;
        branch = branch.broadcast_mul(&samples.to_dtype(xs.dtype())?)?;
    }
    Ok((xs + branch)?)
}
