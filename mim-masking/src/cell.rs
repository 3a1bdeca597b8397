//! Hides random cells of several patches.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::count::{check_ratio, share};
use crate::random::argsort;
use crate::{MaskRequest, Masker, MaskerSettings};

const NAME: &str = "cell masker";

/// Which number of cells is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellRounding {
    /// `ceil(cells * mask_ratio)` cells are hidden (SimMIM).
    HiddenUp,
    /// `floor(cells * (1 - mask_ratio))` cells stay visible (CMAE, FastMIM).
    VisibleDown,
}

/// Settings of [`CellMasker`]; `Default` is the SimMIM ViT pre-training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CellMaskerConfig {
    /// Side of a cell in pixels.
    pub mask_patch_size: usize,
    /// Side of the model's patch (a cell of the requested grid) in pixels.
    pub patch_size: usize,
    /// Share of hidden cells, in `[0, 1)`.
    pub mask_ratio: f64,
    /// Which number is rounded.
    pub rounding: CellRounding,
}

impl Default for CellMaskerConfig {
    fn default() -> Self {
        Self {
            mask_patch_size: 32,
            patch_size: 16,
            mask_ratio: 0.6,
            rounding: CellRounding::HiddenUp,
        }
    }
}

impl CellMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `mask_ratio` is outside `[0, 1)`, or neither cell nor patch size
    /// is a multiple of the other.
    pub fn build(&self) -> Result<CellMasker> {
        check_ratio(NAME, "mask_ratio", self.mask_ratio)?;
        let (cell, patch) = (self.mask_patch_size, self.patch_size);
        if cell == 0 || patch == 0 || (!cell.is_multiple_of(patch) && !patch.is_multiple_of(cell)) {
            return Err(Error::config(
                NAME,
                "mask_patch_size",
                cell,
                format!("it must be a multiple of the patch size {patch}, or divide it"),
                "make mask_patch_size a multiple of patch_size",
            ));
        }
        Ok(CellMasker {
            config: self.clone(),
        })
    }
}

impl Part for CellMaskerConfig {
    const ABOUT: &'static str = "whole cells of several patches";
    const PAPER: &'static str = "SimMIM: Xie et al., CVPR 2022, arXiv 2111.09886; CMAE; FastMIM";
    const SMALL: &'static str = "mask_patch_size = 8";
    const FOLLOWS: &'static [&'static str] = &["patch_size"];
}

impl MaskerSettings for CellMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Hides square cells of `mask_patch_size` pixels, the same number in every image.
///
/// The mask is on the requested grid, with every cell repeated over its patches. If cells are smaller
/// than patches (FastMIM), it is on the finer grid of the cells. Grids need not be square.
/// SimMIM (Xie et al., CVPR 2022), Sec. 3.2; CMAE (Huang et al., TPAMI 2023) with 2x2 patches.
#[derive(Debug, Clone)]
pub struct CellMasker {
    config: CellMaskerConfig,
}

impl CellMasker {
    /// The grid of cells on a grid of patches.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the cells do not tile the grid.
    pub fn cells(&self, grid: PatchGrid) -> Result<PatchGrid> {
        let (cell, patch) = (self.config.mask_patch_size, self.config.patch_size);
        if cell < patch {
            let finer = patch / cell;
            return Ok(PatchGrid::new(grid.rows * finer, grid.cols * finer));
        }
        let scale = cell / patch;
        if !grid.rows.is_multiple_of(scale) || !grid.cols.is_multiple_of(scale) {
            return Err(Error::config(
                NAME,
                "mask_patch_size",
                cell,
                format!("cells of {scale}x{scale} patches do not tile a grid of {grid}"),
                "choose an image size that is a multiple of mask_patch_size",
            ));
        }
        Ok(PatchGrid::new(grid.rows / scale, grid.cols / scale))
    }

    /// Hidden cells of `cells` cells.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the ratio is checked to lie in [0, 1)"
    )]
    fn hidden(&self, cells: usize) -> usize {
        let ratio = self.config.mask_ratio;
        match self.config.rounding {
            CellRounding::HiddenUp => (cells as f64 * ratio).ceil() as usize,
            CellRounding::VisibleDown => cells - share(cells, 1. - ratio),
        }
    }

    /// The mask for recorded permutations `[images * cells]` of the cells, hidden cells first.
    ///
    /// # Errors
    ///
    /// If the cells do not tile the grid or the numbers are not permutations of them.
    pub fn from_permutation(&self, grid: PatchGrid, permutation: &[u32]) -> Result<Mask> {
        let cells = self.cells(grid)?;
        let hidden = self.hidden(cells.len());
        let mut order = permutation.to_vec();
        for row in order.chunks_exact_mut(cells.len()) {
            row.rotate_left(hidden);
        }
        let images = permutation.len() / cells.len();
        let mask = Mask::new(cells, order, vec![cells.len() - hidden; images])?;
        if cells.len() > grid.len() {
            return Ok(mask);
        }
        mask.upsample(grid)
    }

    /// The mask for recorded `noise` `[images * cells]`: cells with the smallest values stay visible.
    ///
    /// # Errors
    ///
    /// If the cells do not tile the grid or the noise is not a multiple of them.
    pub fn from_noise(&self, grid: PatchGrid, noise: &[f32]) -> Result<Mask> {
        let cells = self.cells(grid)?.len();
        let visible = cells - self.hidden(cells);
        let mut permutation: Vec<u32> = noise.chunks(cells).flat_map(argsort).collect();
        for row in permutation.chunks_exact_mut(cells) {
            row.rotate_left(visible);
        }
        self.from_permutation(grid, &permutation)
    }
}

impl Masker for CellMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let noise: Vec<f32> = (0..rq.images * self.cells(rq.grid)?.len())
            .map(|_| rng.random())
            .collect();
        self.from_noise(rq.grid, &noise)
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small positive numbers")]
mod tests {
    use super::*;
    use crate::sampling::{Statistics, request};
    use mim_core::StepContext;
    use mim_testing::Golden;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn masker(cell: usize, patch: usize, ratio: f64, rounding: CellRounding) -> CellMasker {
        CellMaskerConfig {
            mask_patch_size: cell,
            patch_size: patch,
            mask_ratio: ratio,
            rounding,
        }
        .build()
        .unwrap()
    }

    #[test]
    fn hides_the_first_cells_of_the_permutation_on_a_non_square_grid() {
        let masker = masker(8, 4, 0.4, CellRounding::HiddenUp);
        let mask = masker
            .from_permutation(PatchGrid::new(2, 6), &[2, 0, 1])
            .unwrap();
        assert_eq!(mask.to_bits(), [1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1]);
    }

    #[test]
    fn counts_match_the_papers() {
        let simmim = CellMaskerConfig::default().build().unwrap();
        assert_eq!((simmim.hidden(36), simmim.hidden(49)), (22, 30));
        let cmae = masker(32, 16, 0.65, CellRounding::VisibleDown);
        assert_eq!(cmae.hidden(49), 49 - 17);
        let fastmim = masker(16, 16, 0.75, CellRounding::VisibleDown);
        assert_eq!(fastmim.hidden(64), 48);
    }

    #[test]
    fn cells_smaller_than_patches_give_a_finer_mask() {
        let masker = masker(8, 16, 0.5, CellRounding::HiddenUp);
        let mask = masker
            .from_noise(PatchGrid::new(1, 2), &[0., 1., 2., 3., 4., 5., 6., 7.])
            .unwrap();
        assert_eq!(mask.grid(), PatchGrid::new(2, 4));
        assert_eq!(mask.to_bits(), [0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn refuses_cells_that_do_not_tile() {
        let text = CellMaskerConfig {
            patch_size: 12,
            ..CellMaskerConfig::default()
        }
        .build()
        .unwrap_err()
        .to_string();
        assert!(text.contains("`mask_patch_size` is 32"), "{text}");
        let masker = masker(32, 16, 0.6, CellRounding::HiddenUp);
        let text = masker
            .from_permutation(PatchGrid::new(5, 4), &[0])
            .unwrap_err()
            .to_string();
        assert!(text.contains("5x4"), "{text}");
        assert!(
            masker
                .from_permutation(PatchGrid::new(4, 4), &[0, 1, 2])
                .is_err()
        );
    }

    #[test]
    fn recorded_permutation_gives_simmims_mask() {
        let case = Golden::load("simmim/vit_case1");
        let masker = masker(16, 8, 0.6, CellRounding::HiddenUp);
        let mask = masker
            .from_permutation(PatchGrid::new(6, 6), &case.ids("input.permutation"))
            .unwrap();
        assert_eq!(mask.to_bits(), case.bytes("input.mask"));
    }

    #[test]
    fn cmaes_cells_are_hidden_equally_often() {
        const DRAWS: usize = 3000;
        let masker = masker(32, 16, 0.65, CellRounding::VisibleDown);
        let (grid, step) = (PatchGrid::new(14, 14), StepContext::new(0));
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mask = masker.sample(&request(&step, DRAWS, grid), &mut rng);
        let found = Statistics::of(&mask.unwrap());
        assert_eq!((found.mean(), found.std()), (128., 0.));
        let wanted = 32. / 49.;
        let error = (wanted * (1. - wanted) / DRAWS as f64).sqrt();
        for rate in found.rate {
            assert!((rate - wanted).abs() < 5. * error, "{rate}");
        }
    }

    proptest! {
        #[test]
        fn whole_cells_are_hidden_in_the_exact_number(
            seed in any::<u64>(), rows in 1usize..5, cols in 1usize..5, percent in 1u32..100,
        ) {
            let masker = masker(8, 4, f64::from(percent) / 100., CellRounding::HiddenUp);
            let (grid, step) = (PatchGrid::new(2 * rows, 2 * cols), StepContext::new(0));
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mask = masker.sample(&request(&step, 3, grid), &mut rng).unwrap();
            let hidden = (rows as f64 * cols as f64 * f64::from(percent) / 100.).ceil() as usize;
            prop_assert_eq!(mask.hidden_total(), 3 * 4 * hidden);
            for bits in mask.to_bits().chunks(grid.len()) {
                for (id, bit) in bits.iter().enumerate() {
                    let (row, col) = (id / grid.cols, id % grid.cols);
                    prop_assert_eq!(*bit, bits[row / 2 * 2 * grid.cols + col / 2 * 2]);
                }
            }
        }
    }
}
