//! Attention in candle operations.

use candle_core::{D, Tensor};

use crate::Result;
use crate::cpu_slices::accumulation_dtype;
use crate::softmax::reference_softmax;

/// See [`super::attention()`]; the softmax is taken in f32 at least.
pub(super) fn attention(
    qkv: &Tensor,
    heads: usize,
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor> {
    let (batch, tokens, packed) = qkv.dims3()?;
    let head_dim = packed / 3 / heads;
    let parts = qkv
        .reshape((batch, tokens, 3, heads, head_dim))?
        .permute((2, 0, 3, 1, 4))?
        .contiguous()?;
    attend([parts.get(0)?, parts.get(1)?, parts.get(2)?], bias, scale)
}

/// See [`super::cross_attention()`].
pub(super) fn cross_attention(q: &Tensor, kv: &Tensor, heads: usize, scale: f64) -> Result<Tensor> {
    let (batch, queries, dim) = q.dims3()?;
    let q = q
        .reshape((batch, queries, heads, dim / heads))?
        .transpose(1, 2)?;
    let kv = kv
        .reshape((batch, (), 2, heads, dim / heads))?
        .permute((2, 0, 3, 1, 4))?
        .contiguous()?;
    attend([q.contiguous()?, kv.get(0)?, kv.get(1)?], None, scale)
}

/// Attention on queries, keys and values, each `[batch, heads, tokens, head_dim]`.
fn attend([q, k, v]: [Tensor; 3], bias: Option<&Tensor>, scale: f64) -> Result<Tensor> {
    let (batch, heads, tokens, head_dim) = q.dims4()?;
    let scores = (q * scale)?.matmul(&k.transpose(D::Minus2, D::Minus1)?)?;
    let scores = scores.to_dtype(accumulation_dtype(v.dtype()))?;
    let scores = match bias {
        Some(bias) => {
            let rows = bias.dim(0)?;
            let cycles = scores.reshape((batch / rows, rows, heads, tokens, tokens))?;
            let bias = bias.to_dtype(scores.dtype())?.unsqueeze(0)?;
            cycles.broadcast_add(&bias)?.flatten(0, 1)?
        }
        None => scores,
    };
    let weights = reference_softmax(&scores)?.to_dtype(v.dtype())?;
    let ys = weights.matmul(&v.contiguous()?)?;
    Ok(ys
        .transpose(1, 2)?
        .reshape((batch, tokens, heads * head_dim))?)
}
