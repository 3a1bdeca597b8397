//! Attention in candle operations.

use candle_core::{D, Tensor};

use crate::Result;
use crate::ops::host::wide;
use crate::ops::softmax::reference_softmax;

/// See [`super::attention()`]; the softmax is taken in f32 at least.
pub(super) fn attention(
    qkv: &Tensor,
    heads: usize,
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor> {
    let (batch, tokens, packed) = qkv.dims3()?;
    let dim = packed / 3;
    let parts = qkv
        .reshape((batch, tokens, 3, heads, dim / heads))?
        .permute((2, 0, 3, 1, 4))?
        .contiguous()?;
    let (q, k, v) = (parts.get(0)?, parts.get(1)?, parts.get(2)?);
    let scores = (q * scale)?.matmul(&k.transpose(D::Minus2, D::Minus1)?)?;
    let scores = scores.to_dtype(wide(qkv.dtype()))?;
    let scores = match bias {
        Some(bias) => scores.broadcast_add(&bias.to_dtype(scores.dtype())?)?,
        None => scores,
    };
    let weights = reference_softmax(&scores)?.to_dtype(qkv.dtype())?;
    let ys = weights.matmul(&v.contiguous()?)?;
    Ok(ys.transpose(1, 2)?.reshape((batch, tokens, dim))?)
}
