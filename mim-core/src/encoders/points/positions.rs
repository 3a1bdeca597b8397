//! Position embeddings of points, and nearest points in a batch.

use candle_core::Tensor;

use crate::nn::{Block, Linear};
use crate::params::Params;
use crate::{Result, StepContext, ops};

/// Position embedding of points: `3 -> dim`, GELU, `dim -> dim`.
#[derive(Debug, Clone)]
pub struct PointPositions(Linear, Linear);

impl PointPositions {
    /// Parameters `0`, `2`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, dim: usize) -> Result<Self> {
        let first = Linear::new(&params.pp(0), 3, dim)?;
        Ok(Self(first, Linear::new(&params.pp(2), dim, dim)?))
    }

    /// Maps `[..., 3]` to `[..., dim]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not 3 wide.
    pub fn forward(&self, points: &Tensor) -> Result<Tensor> {
        self.1.forward(&self.0.forward_gelu(points)?)
    }
}

/// Runs blocks, adding the positions to the input of each.
///
/// # Errors
///
/// If a shape does not fit.
pub(crate) fn run_with_positions(
    blocks: &[Block],
    mut xs: Tensor,
    positions: &Tensor,
    bias: Option<&Tensor>,
    step: &StepContext,
) -> Result<Tensor> {
    for block in blocks {
        xs = block.forward(&(xs + positions)?, bias, step)?;
    }
    Ok(xs)
}

/// Squared distances of `queries` `[batch, n, 3]` to the `count` nearest of `points` `[batch, m, 3]`,
/// `[batch * n, count]`, and the row numbers of these points in `[batch * m]`.
///
/// # Errors
///
/// As [`ops::nearest_points`].
pub(crate) fn nearest(queries: &Tensor, points: &Tensor, count: usize) -> Result<(Tensor, Tensor)> {
    let (batch, asked, _) = queries.dims3()?;
    let ids = ops::nearest_points(queries, points, count)?;
    let size = u32::try_from(points.dim(1)?).unwrap_or(u32::MAX);
    let ids = ids.flatten_all()?.to_vec1::<u32>()?;
    let each = (asked * count).max(1);
    let ids: Vec<u32> = (0u32..)
        .zip(ids.chunks(each))
        .flat_map(|(cloud, ids)| ids.iter().map(move |id| cloud * size + id))
        .collect();
    let ids = ops::upload(ids, batch * asked * count, points.device())?;
    let found = ops::gather_rows(&points.flatten_to(1)?, &ids)?;
    let found = found.reshape((batch * asked, count, 3))?;
    let from = queries.reshape((batch * asked, 1, 3))?;
    let distances = found.broadcast_sub(&from)?.sqr()?.sum(2)?;
    Ok((distances, ids))
}
