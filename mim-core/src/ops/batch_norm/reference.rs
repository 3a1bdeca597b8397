//! Batch normalisation in candle operations.

use candle_core::Tensor;

use super::Normed;
use crate::Result;
use crate::ops::host::wide;

/// See [`super::batch_norm()`]; moments in f32 at least.
pub(super) fn batch_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Normed> {
    let rows = xs.reshape(((), weight.dim(0)?))?;
    let rows = rows.to_dtype(wide(xs.dtype()))?;
    let mean = rows.mean_keepdim(0)?;
    let centred = rows.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(0)?;
    let ys = centred
        .broadcast_div(&(&variance + eps)?.sqrt()?)?
        .broadcast_mul(&weight.to_dtype(rows.dtype())?)?
        .broadcast_add(&bias.to_dtype(rows.dtype())?)?;
    Ok(Normed {
        ys: ys.reshape(xs.shape())?.to_dtype(xs.dtype())?,
        mean: mean.squeeze(0)?.detach(),
        variance: variance.squeeze(0)?.detach(),
    })
}
