//! Absolute position embeddings.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::bicubic::taps;
use crate::params::Params;
use crate::{Error, Mask, PatchGrid, Result, memory, ops};

/// Kind of position embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PosEmbedKind {
    /// Fixed sines and cosines; the first half encodes the column (MAE).
    #[default]
    Sincos,
    /// Fixed sines and cosines; the first half encodes the row (BootMAE, SIM, CMAE).
    SincosRowFirst,
    /// A trained table.
    Learned,
    /// None.
    None,
}

/// A position table `[1, prefix + tokens, dim]`; the row of the class token comes first.
///
/// Fixed positions exist for every grid, trained ones only for the grid of the table.
#[derive(Debug, Clone)]
pub struct PosEmbed {
    table: Tensor,
    prefix: usize,
    grid: PatchGrid,
    kind: PosEmbedKind,
    resize: Resize,
}

/// How the table adapts to another grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resize {
    /// Fixed positions are recomputed, trained ones refused.
    No,
    /// Trained ones are resized by DINO's rule.
    Dino,
    /// All are resized.
    Plain,
}

impl PosEmbed {
    /// The table `name`, or none for [`PosEmbedKind::None`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `dim` is not a multiple of 4 for sines and cosines.
    pub fn new(
        params: &Params,
        name: &str,
        kind: PosEmbedKind,
        dim: usize,
        (grid, prefix): (PatchGrid, usize),
    ) -> Result<Option<Self>> {
        let table = match kind {
            PosEmbedKind::None => return Ok(None),
            PosEmbedKind::Learned => params.weight(&[1, prefix + grid.len(), dim], name)?,
            PosEmbedKind::Sincos | PosEmbedKind::SincosRowFirst => {
                let row_first = kind == PosEmbedKind::SincosRowFirst;
                let table = sincos_table(grid, dim, prefix, row_first, params.device())?;
                params.constant(name, table)?
            }
        };
        Ok(Some(Self {
            table,
            prefix,
            grid,
            kind,
            resize: Resize::No,
        }))
    }

    /// Allows images of any size: for another grid, the patch rows of the table are resized, with gradient.
    ///
    /// Bicubic (a = -0.75), edges repeated, no antialiasing. The scale is `(to + 0.1) / from` on each
    /// axis, also for sampling. DINO (Caron et al., ICCV 2021), iBOT.
    #[must_use]
    pub fn for_any_grid(self) -> Self {
        Self {
            resize: Resize::Dino,
            ..self
        }
    }

    /// Allows images of any size: for another grid, the patch rows of the table are resized, also if positions are
    /// fixed. Bicubic (a = -0.75), edges repeated, no antialiasing (MIM-Refiner).
    #[must_use]
    pub fn resized(self) -> Self {
        Self {
            resize: Resize::Plain,
            ..self
        }
    }

    /// The rows of the class tokens, `[1, prefix, dim]`.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn prefix(&self) -> Result<Tensor> {
        Ok(self.table.narrow(1, 0, self.prefix)?)
    }

    /// The rows of all patches, `[1, tokens, dim]`; for another grid than the table's, sines and cosines
    /// are recomputed.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `grid` is not the table's, positions are trained, and other grids are not allowed.
    pub fn patches(&self, grid: PatchGrid) -> Result<Tensor> {
        let rows = self.table.narrow(1, self.prefix, self.grid.len())?;
        if grid == self.grid {
            return Ok(rows);
        }
        if self.kind != PosEmbedKind::Learned && self.resize != Resize::Plain {
            let row_first = self.kind == PosEmbedKind::SincosRowFirst;
            return sincos_table(grid, self.table.dim(2)?, 0, row_first, self.table.device());
        }
        if self.resize == Resize::No {
            return Err(Error::shape(
                "position table",
                format!("the grid {} it was trained for", self.grid),
                format!("{grid}"),
                "give images of the configured image_size, choose fixed positions, or allow other sizes (any_size = true)",
            ));
        }
        // Parity: DINO adds 0.1 to the target size, so its sampling scale changes too.
        let more = if self.resize == Resize::Dino { 0.1 } else { 0. };
        let resize = resize_matrix((self.grid, grid), more, rows.device())?;
        Ok(resize.matmul(&rows.squeeze(0)?)?.unsqueeze(0)?)
    }

    /// The rows of a mask's visible, hidden or listed tokens, `[mask rows, n, dim]`, by ids `[mask rows, n]`.
    ///
    /// # Errors
    ///
    /// As [`PosEmbed::patches`].
    pub fn select(&self, mask: &Mask, ids: &Tensor) -> Result<Tensor> {
        let rows = self.patches(mask.grid())?.squeeze(0)?;
        let (masks, count) = ids.dims2()?;
        let rows = ops::gather_rows(&rows, &ids.flatten_all()?)?;
        Ok(rows.reshape((masks, count, ()))?)
    }
}

/// The matrix `[to, from]` that resizes the rows of grid `from` to grid `to`, as if `to` had `more` positions per axis.
fn resize_matrix((from, to): (PatchGrid, PatchGrid), more: f64, device: &Device) -> Result<Tensor> {
    let along = |from: usize, to: usize| taps(from, to, from as f64 / (to as f64 + more));
    let (vertical, horizontal) = (along(from.rows, to.rows), along(from.cols, to.cols));
    let mut matrix = vec![0f32; to.len() * from.len()];
    let places = vertical.iter().flat_map(|row| {
        let cols = horizontal.iter();
        cols.map(move |col| (row, col))
    });
    for (weights, (row, col)) in matrix.chunks_mut(from.len()).zip(places) {
        for (y, by_row) in row {
            for (x, by_col) in col {
                weights[y * from.cols + x] += by_row * by_col;
            }
        }
    }
    Ok(ops::upload(matrix, (to.len(), from.len()), device)?)
}

/// Fixed 2-D sines and cosines `[1, prefix + tokens, dim]`, zero for the prefix.
///
/// With `d = dim / 2` and `w_k = 10000^(-k / (d / 2))`, half a row is `[sin(p w) | cos(p w)]`. A row
/// is the half of the column, then the half of the row; `row_first` swaps them. Computed
/// in f64. MAE (He et al., 2022); facebookresearch/mae @ efb2a80, `util/pos_embed.py`.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if `dim` is not a multiple of 4.
pub fn sincos_table(
    grid: PatchGrid,
    dim: usize,
    prefix: usize,
    row_first: bool,
    device: &Device,
) -> Result<Tensor> {
    if dim == 0 || !dim.is_multiple_of(4) {
        return Err(Error::config(
            "position table",
            "embed_dim",
            dim,
            "sines and cosines of two axes need a multiple of 4",
            "use a multiple of 4, or learned positions",
        ));
    }
    memory::check(
        ("position table", "embed_dim"),
        &[grid.rows, grid.cols, dim],
        prefix,
    )?;
    let quarter = dim / 4;
    // The half row of each position along an axis.
    let halves: Vec<Vec<f32>> = (0..grid.rows.max(grid.cols))
        .map(|place| {
            let angle = |k: usize| place as f64 * 10_000f64.powf(-(k as f64) / quarter as f64);
            let sines = (0..quarter).map(|k| angle(k).sin());
            let both = sines.chain((0..quarter).map(|k| angle(k).cos()));
            #[expect(clippy::cast_possible_truncation, reason = "the table is f32")]
            both.map(|value| value as f32).collect()
        })
        .collect();
    let mut table = vec![0f32; prefix * dim];
    table.reserve(grid.len() * dim);
    for token in 0..grid.len() {
        let (row, col) = (token / grid.cols, token % grid.cols);
        for place in if row_first { [row, col] } else { [col, row] } {
            table.extend_from_slice(&halves[place]);
        }
    }
    Ok(ops::upload(table, (1, prefix + grid.len(), dim), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_half_holds_the_column() {
        let table = sincos_table(PatchGrid::new(2, 2), 4, 1, false, &Device::Cpu).unwrap();
        let rows: Vec<Vec<f32>> = table.squeeze(0).unwrap().to_vec2().unwrap();
        let (sin, cos) = (1f32.sin(), 1f32.cos());
        assert_eq!(
            rows,
            [
                [0.; 4],
                [0., 1., 0., 1.],
                [sin, cos, 0., 1.],
                [0., 1., sin, cos],
                [sin, cos, sin, cos]
            ]
        );
    }

    #[test]
    fn fixed_positions_fit_every_grid_and_trained_ones_only_theirs() {
        let params = crate::ParamStore::cpu(0);
        let (own, other) = (PatchGrid::new(2, 2), PatchGrid::new(3, 1));
        let embed = |kind, name: &str| {
            let embed = PosEmbed::new(&params.root(), name, kind, 4, (own, 1));
            embed.unwrap().unwrap()
        };
        let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (kind, row_first) in [
            (PosEmbedKind::Sincos, false),
            (PosEmbedKind::SincosRowFirst, true),
        ] {
            let fixed = embed(kind, &format!("fixed{row_first}"));
            for grid in [own, other] {
                let table = sincos_table(grid, 4, 0, row_first, &Device::Cpu).unwrap();
                assert_eq!(values(&fixed.patches(grid).unwrap()), values(&table));
            }
        }
        let trained = embed(PosEmbedKind::Learned, "trained");
        assert_eq!(trained.patches(own).unwrap().dims(), [1, 4, 4]);
        let error = trained.patches(other).unwrap_err().to_string();
        assert!(error.contains("2x2") && error.contains("3x1"), "{error}");
    }

    #[test]
    fn other_grids_are_resized_only_if_allowed_and_with_gradient() {
        let store = crate::ParamStore::cpu(0);
        let (grid, kind) = (PatchGrid::new(2, 3), PosEmbedKind::Learned);
        let table = PosEmbed::new(&store.root(), "pos_embed", kind, 4, (grid, 1));
        let table = table.unwrap().unwrap();
        let other = PatchGrid::new(4, 2);
        let error = table.patches(other).unwrap_err().to_string();
        assert!(error.contains("any_size = true"), "{error}");
        let table = table.for_any_grid();
        assert_eq!(table.patches(grid).unwrap().dims(), [1, 6, 4]);
        let rows = table.patches(other).unwrap();
        assert_eq!(rows.dims(), [1, 8, 4]);
        let grads = rows.sum_all().unwrap().backward().unwrap();
        let grad = grads.get(&store.var("pos_embed").unwrap()).unwrap();
        let grad: Vec<Vec<f32>> = grad.squeeze(0).unwrap().to_vec2().unwrap();
        assert_eq!(grad[0], [0.; 4]);
        // Each of the 8 rows distributes a total weight of one.
        let sum: f32 = grad.iter().map(|row| row[0]).sum();
        assert!((sum - 8.).abs() < 1e-5, "{sum}");
    }

    #[test]
    fn refuses_a_width_not_divisible_by_four() {
        assert!(sincos_table(PatchGrid::new(2, 2), 6, 0, false, &Device::Cpu).is_err());
    }
}
