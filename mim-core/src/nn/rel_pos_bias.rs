//! Relative position bias over a patch grid with a class token.

use candle_core::{Device, Tensor};

use crate::params::Params;
use crate::{PatchGrid, Result, ops};

/// A trained bias for every relative position of two patches, and three for the class token (BEiT).
#[derive(Debug, Clone)]
pub struct RelPosBias {
    table: Tensor,
    index: Tensor,
    tokens: usize,
}

impl RelPosBias {
    /// Parameter `relative_position_bias_table` `[(2 rows - 1)(2 cols - 1) + 3, heads]`.
    ///
    /// # Errors
    ///
    /// If the name is taken by another shape.
    pub fn new(params: &Params, grid: PatchGrid, heads: usize) -> Result<Self> {
        let distances = (2 * grid.rows - 1) * (2 * grid.cols - 1) + 3;
        let table = params.weight(&[distances, heads], "relative_position_bias_table")?;
        let index = relative_position_index(grid);
        let index = Tensor::from_vec(index, (1 + grid.len()).pow(2), params.device())?;
        Ok(Self {
            table,
            index,
            tokens: 1 + grid.len(),
        })
    }

    /// The bias `[1, heads, 1 + tokens, 1 + tokens]`.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn forward(&self, device: &Device) -> Result<Tensor> {
        let rows = ops::gather_rows(&self.table, &self.index.to_device(device)?)?;
        Ok(rows
            .reshape((self.tokens, self.tokens, ()))?
            .permute((2, 0, 1))?
            .contiguous()?
            .unsqueeze(0)?)
    }
}

/// The table row of each pair (query, key), `[1 + tokens, 1 + tokens]` flattened, class token first.
///
/// Patches: `(yi - yj + rows - 1) * (2 cols - 1) + (xi - xj + cols - 1)`; the last three rows are
/// class to patch, patch to class, class to class. microsoft/unilm `beit/modeling_finetune.py`.
pub fn relative_position_index(grid: PatchGrid) -> Vec<u32> {
    let distances = (2 * grid.rows - 1) * (2 * grid.cols - 1);
    let place = |token: usize| (token / grid.cols, token % grid.cols);
    let row = |query: usize, key: usize| match (query, key) {
        (0, 0) => distances + 2,
        (0, _) => distances,
        (_, 0) => distances + 1,
        _ => {
            let ((yi, xi), (yj, xj)) = (place(query - 1), place(key - 1));
            (yi + grid.rows - 1 - yj) * (2 * grid.cols - 1) + (xi + grid.cols - 1 - xj)
        }
    };
    let tokens = 1 + grid.len();
    #[expect(clippy::cast_possible_truncation, reason = "grids fit u32")]
    (0..tokens * tokens)
        .map(|pair| row(pair / tokens, pair % tokens) as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opposite_distances_have_different_rows() {
        let index = relative_position_index(PatchGrid::new(1, 2));
        assert_eq!(index, [5, 3, 3, 4, 1, 0, 4, 2, 1]);
    }
}
