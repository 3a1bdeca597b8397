//! Batch normalisation in candle operations.

use std::sync::Arc;

use candle_core::Tensor;

use super::BatchNormOutput;
use super::all_reduce_sum::{AllReduceSum, sum_over_all};
use crate::Result;
use crate::cpu_slices::accumulation_dtype;

/// See [`super::batch_norm()`] and, with `comm`, [`super::sync_batch_norm`]; moments are at least f32.
pub(super) fn batch_norm(
    xs: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    comm: Option<&Arc<dyn AllReduceSum>>,
) -> Result<BatchNormOutput> {
    let rows = xs.reshape(((), weight.dim(0)?))?;
    let rows = rows.to_dtype(accumulation_dtype(xs.dtype()))?;
    let mean = column_means(&rows, comm)?;
    let centred = rows.broadcast_sub(&mean)?;
    let variance = column_means(&centred.sqr()?, comm)?;
    let ys = centred
        .broadcast_div(&(&variance + eps)?.sqrt()?)?
        .broadcast_mul(&weight.to_dtype(rows.dtype())?)?
        .broadcast_add(&bias.to_dtype(rows.dtype())?)?;
    Ok(BatchNormOutput {
        ys: ys.reshape(xs.shape())?.to_dtype(xs.dtype())?,
        mean: mean.squeeze(0)?.detach(),
        variance: variance.squeeze(0)?.detach(),
    })
}

/// The mean of each column over the rows of all processes, `[1, dim]`.
fn column_means(rows: &Tensor, comm: Option<&Arc<dyn AllReduceSum>>) -> Result<Tensor> {
    let Some(comm) = comm else {
        return Ok(rows.mean_keepdim(0)?);
    };
    let count = rows.dim(0)? * comm.world();
    Ok((sum_over_all(&rows.sum_keepdim(0)?, comm)? / count as f64)?)
}
