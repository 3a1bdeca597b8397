//! Relative position bias over a patch grid with a class token, or over a window.

use candle_core::{Device, Tensor};

use crate::params::Params;
use crate::{PatchGrid, Result, memory, ops};

/// A trained bias for each relative position of two patches, plus three for the class token if there is one.
#[derive(Debug, Clone)]
pub struct RelPosBias {
    table: Tensor,
    index: Tensor,
    tokens: usize,
}

impl RelPosBias {
    /// For a grid with a class token (BEiT): parameter `relative_position_bias_table`
    /// `[(2 rows - 1)(2 cols - 1) + 3, heads]`.
    ///
    /// # Errors
    ///
    /// If a parameter with this name has another shape.
    pub fn new(params: &Params, grid: PatchGrid, heads: usize) -> Result<Self> {
        check(grid)?;
        let index = relative_position_index(grid);
        Self::with_index(params, (distances(grid) + 3, heads), index)
    }

    /// For a window without class token (Swin): parameter `relative_position_bias_table`
    /// `[(2 rows - 1)(2 cols - 1), heads]`.
    ///
    /// # Errors
    ///
    /// If a parameter with this name has another shape.
    pub fn window(params: &Params, window: PatchGrid, heads: usize) -> Result<Self> {
        check(window)?;
        let index = window_position_index(window);
        Self::with_index(params, (distances(window), heads), index)
    }

    fn with_index(params: &Params, shape: (usize, usize), index: Vec<u32>) -> Result<Self> {
        let table = params.weight(&[shape.0, shape.1], "relative_position_bias_table")?;
        let tokens = index.len().isqrt();
        Ok(Self {
            table,
            index: Tensor::from_vec(index, tokens * tokens, params.device())?,
            tokens,
        })
    }

    /// The bias `[1, heads, tokens, tokens]`, including the class token.
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
    let distances = distances(grid);
    pairs(1 + grid.len(), |query, key| match (query, key) {
        (0, 0) => distances + 2,
        (0, _) => distances,
        (_, 0) => distances + 1,
        _ => distance(grid, query - 1, key - 1),
    })
}

/// The table row of each pair (query, key) of a window without class token, `[tokens, tokens]`
/// flattened, by the formula of [`relative_position_index`] (Swin: Liu et al., ICCV 2021, eq. 4).
pub fn window_position_index(window: PatchGrid) -> Vec<u32> {
    pairs(window.len(), |query, key| distance(window, query, key))
}

/// Refuses an index that fits into no memory.
fn check(grid: PatchGrid) -> Result<()> {
    let pairs = [grid.rows, grid.cols, grid.rows, grid.cols];
    memory::check(("relative positions", "image_size"), &pairs, 0).map(drop)
}

/// Number of relative positions of two patches.
fn distances(grid: PatchGrid) -> usize {
    (2 * grid.rows - 1) * (2 * grid.cols - 1)
}

/// Index of the relative position of two patches.
fn distance(grid: PatchGrid, query: usize, key: usize) -> usize {
    let place = |token: usize| (token / grid.cols, token % grid.cols);
    let ((yi, xi), (yj, xj)) = (place(query), place(key));
    (yi + grid.rows - 1 - yj) * (2 * grid.cols - 1) + (xi + grid.cols - 1 - xj)
}

fn pairs(tokens: usize, row: impl Fn(usize, usize) -> usize) -> Vec<u32> {
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
        assert_eq!(window_position_index(PatchGrid::new(1, 2)), [1, 0, 2, 1]);
    }
}
