//! The halves of a block as chains of operations.

use candle_core::Tensor;

use super::{Affine, Inner};
use crate::Result;
use crate::ops::{attention, gelu, layer_norm, linear};

/// See [`super::residual_mlp`] and [`super::residual_attention`].
pub(super) fn residual(
    xs: &Tensor,
    norm: Affine<'_>,
    eps: f64,
    [first, second]: [Affine<'_>; 2],
    inner: Inner,
) -> Result<Tensor> {
    let normed = layer_norm(xs, norm.weight, norm.bias, eps)?;
    let middle = linear(&normed, first.weight, Some(first.bias))?;
    let inside = match inner {
        Inner::Gelu => gelu(&middle)?,
        Inner::Attention { heads, scale } => attention(&middle, heads, None, scale)?,
    };
    Ok((xs + linear(&inside, second.weight, Some(second.bias))?)?)
}
