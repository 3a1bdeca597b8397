//! Layer normalisation in candle operations.

use candle_core::{D, Tensor};

use crate::Result;
use crate::cpu_slices::accumulation_dtype;

/// See [`super::normalize`]; moments are at least f32.
pub(super) fn normalize(xs: &Tensor, eps: f64) -> Result<Tensor> {
    Ok(standardised(xs, eps)?.to_dtype(xs.dtype())?)
}

/// See [`super::layer_norm()`]; moments are at least f32.
pub(super) fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let ys = standardised(xs, eps)?;
    let ys = ys
        .broadcast_mul(&weight.to_dtype(ys.dtype())?)?
        .broadcast_add(&bias.to_dtype(ys.dtype())?)?;
    Ok(ys.to_dtype(xs.dtype())?)
}

fn standardised(xs: &Tensor, eps: f64) -> Result<Tensor> {
    let xs = xs.to_dtype(accumulation_dtype(xs.dtype()))?;
    let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(centred.broadcast_div(&(variance + eps)?.sqrt()?)?)
}
