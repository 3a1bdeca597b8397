//! Merges 2x2 neighbouring tokens.

use candle_core::Tensor;

use crate::nn::windows::gather_padded;
use crate::nn::{LayerNorm, Linear};
use crate::params::Params;
use crate::{PatchGrid, Result};

/// Concatenates each 2x2 tokens, normalises them and halves the width (Swin: Liu et al., ICCV 2021, Sec. 3.1).
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

    /// Maps `[rows, tokens, dim]` to `[rows, order.len() / 4, 2 dim]`, by the [`order`] of the grid.
    pub(super) fn forward(&self, xs: &Tensor, order: &[u32]) -> Result<Tensor> {
        let (rows, _, dim) = xs.dims3()?;
        let four = gather_padded(xs, order)?.reshape((rows, order.len() / 4, 4 * dim))?;
        self.reduction.forward(&self.norm.forward(&four)?)
    }
}

/// Ids of the four tokens of each merged one: rows first, then columns. An odd side is padded by one;
/// padding has the id `tokens`.
pub(super) fn order(grid: PatchGrid) -> Vec<u32> {
    let (rows, cols) = (grid.rows.div_ceil(2), grid.cols.div_ceil(2));
    let mut order = Vec::with_capacity(4 * rows * cols);
    for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
        for (down, right) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let (row, col) = (2 * row + down, 2 * col + right);
            let token = match row < grid.rows && col < grid.cols {
                true => row * grid.cols + col,
                false => grid.len(),
            };
            #[expect(clippy::cast_possible_truncation, reason = "grids fit u32")]
            order.push(token as u32);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_sides_are_padded() {
        assert_eq!(order(PatchGrid::new(2, 2)), [0, 2, 1, 3]);
        assert_eq!(order(PatchGrid::new(1, 3)), [0, 3, 1, 3, 2, 3, 3, 3]);
    }
}
