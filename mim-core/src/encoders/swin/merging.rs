//! Four neighbouring tokens to one.

use candle_core::Tensor;

use crate::nn::{LayerNorm, Linear};
use crate::params::Params;
use crate::{PatchGrid, Result, ops};

/// Joins each 2x2 tokens, normalises them and halves their width (Swin: Liu et al., ICCV 2021, Sec. 3.1).
#[derive(Debug, Clone)]
pub(super) struct PatchMerging {
    norm: LayerNorm,
    reduction: Linear,
}

impl PatchMerging {
    /// Parameters `norm` (`4 dim`), `reduction.weight` `[2 dim, 4 dim]`.
    pub(super) fn new(params: &Params, dim: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            norm: LayerNorm::new(&params.pp("norm"), 4 * dim, eps)?,
            reduction: Linear::no_bias(&params.pp("reduction"), 4 * dim, 2 * dim)?,
        })
    }

    /// `[rows, tokens, dim]` to `[rows, tokens / 4, 2 dim]`, by the [`merged_tokens`] of their grid.
    pub(super) fn forward(&self, xs: &Tensor, merged: &[u32]) -> Result<Tensor> {
        let (rows, tokens, dim) = xs.dims3()?;
        let four = ops::gather_tokens(xs, merged)?.reshape((rows, tokens / 4, 4 * dim))?;
        self.reduction.forward(&self.norm.forward(&four)?)
    }
}

/// The four tokens of each new one on an even `grid`: rows first, then columns.
pub(super) fn merged_tokens(grid: PatchGrid) -> Vec<u32> {
    let mut order = Vec::with_capacity(grid.len());
    for (row, col) in (0..grid.rows / 2).flat_map(|r| (0..grid.cols / 2).map(move |c| (r, c))) {
        let token = |down: usize, right: usize| (2 * row + down) * grid.cols + 2 * col + right;
        #[expect(clippy::cast_possible_truncation, reason = "grids fit u32")]
        order.extend([(0, 0), (1, 0), (0, 1), (1, 1)].map(|(d, r)| token(d, r) as u32));
    }
    order
}
