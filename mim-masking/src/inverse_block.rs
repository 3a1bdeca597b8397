//! CAPI: one block is visible, and some of the other patches are predicted.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::count::{check_ratio, share};
use crate::draws::{Draws, Fresh, Recorded};
use crate::random::argsort;
use crate::{MaskRequest, Masker, MaskerSettings};

const NAME: &str = "inverse block masker";

/// Settings of [`InverseBlockMasker`]; `Default` is the CAPI recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InverseBlockMaskerConfig {
    /// Share of patches that the encoder does not see, in `(0, 1)`. Default 0.65.
    pub mask_ratio: f64,
    /// Share of the hidden patches that are predicted, in `(0, 1]`. Default 0.05.
    pub pred_ratio: f64,
    /// Minimum height / width of the block. Default 0.5.
    pub min_aspect: f64,
    /// Maximum height / width; `1 / min_aspect` if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_aspect: Option<f64>,
    /// Whether the image is rolled under the block, so that the block may wrap around its edges. Default true.
    pub roll: bool,
    /// Whether the block is visible instead of hidden. Default true.
    pub inverse: bool,
}

impl Default for InverseBlockMaskerConfig {
    fn default() -> Self {
        Self {
            mask_ratio: 0.65,
            pred_ratio: 0.05,
            min_aspect: 0.5,
            max_aspect: None,
            roll: true,
            inverse: true,
        }
    }
}

impl InverseBlockMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a share or an aspect is outside its range.
    pub fn build(&self) -> Result<InverseBlockMasker> {
        check_ratio(NAME, "mask_ratio", self.mask_ratio)?;
        if !(self.pred_ratio > 0. && self.pred_ratio <= 1.) {
            let (why, fix) = ("it must be above 0 and at most 1", "use 0.05");
            return Err(Error::config(NAME, "pred_ratio", self.pred_ratio, why, fix));
        }
        let max = self.max_aspect.unwrap_or(1. / self.min_aspect);
        if !(self.min_aspect > 0. && self.min_aspect <= max && max.is_finite()) {
            let why = format!("it must be positive, and at most max_aspect = {max}");
            return Err(Error::config(
                NAME,
                "min_aspect",
                self.min_aspect,
                why,
                "use 0.5",
            ));
        }
        Ok(InverseBlockMasker {
            log_aspect: (self.min_aspect.ln(), max.ln()),
            config: self.clone(),
        })
    }
}

impl Part for InverseBlockMaskerConfig {
    const ABOUT: &'static str =
        "one block is visible, which may wrap around; part of the rest is predicted";
    const PAPER: &'static str = "CAPI: Darcet et al., TMLR 2025, arXiv 2502.08769";
    const SMALL: &'static str = "pred_ratio = 0.2";
}

impl MaskerSettings for InverseBlockMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Shows one block with an exact number of patches and hides the rest.
///
/// A random part of the hidden patches is predicted; the others are not used. All counts are the same in every image.
///
/// Visible patches are in image order, predicted ones in order of drawing. CAPI (Darcet et al., TMLR 2025),
/// section 3.3; facebookresearch/capi @ 98b4fa1, `data.py`.
#[derive(Debug, Clone)]
pub struct InverseBlockMasker {
    config: InverseBlockMaskerConfig,
    log_aspect: (f64, f64),
}

impl InverseBlockMasker {
    /// Numbers of hidden and predicted patches per image.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if none would be visible or none predicted.
    pub fn counts(&self, grid: PatchGrid) -> Result<(usize, usize)> {
        let config = &self.config;
        let hidden = share(grid.len(), config.mask_ratio);
        let predicted = share(hidden, config.pred_ratio);
        for (field, ratio, count, what) in [
            (
                "mask_ratio",
                config.mask_ratio,
                grid.len() - hidden,
                "stays visible",
            ),
            ("pred_ratio", config.pred_ratio, predicted, "is predicted"),
        ] {
            if count == 0 {
                let why = format!("none of the {} patches {what}", grid.len());
                let fix = "use another ratio, larger images or smaller patches";
                return Err(Error::config(NAME, field, ratio, why, fix));
            }
        }
        Ok((hidden, predicted))
    }

    /// The mask for recorded draws of `images` images: per image, the logarithm of the block's aspect, its top and left
    /// and, if it rolls, the shifts down and right; and `noise` `[images, hidden]` that selects the predicted patches.
    ///
    /// # Errors
    ///
    /// If the draws do not match, or no block fits the grid.
    pub fn from_draws(
        &self,
        grid: PatchGrid,
        images: usize,
        (blocks, noise): (&[f64], &[f32]),
    ) -> Result<Mask> {
        let mut recorded = Recorded::new(blocks);
        let bits = self.bits(grid, images, &mut recorded);
        recorded.finish()?;
        self.mask(grid, &bits?, noise)
    }

    /// 1 for each hidden patch of each image.
    fn bits(&self, grid: PatchGrid, images: usize, draws: &mut impl Draws) -> Result<Vec<u8>> {
        let (hidden, _) = self.counts(grid)?;
        let count = match self.config.inverse {
            true => grid.len() - hidden,
            false => hidden,
        };
        let mut bits = Vec::with_capacity(images * grid.len());
        for _ in 0..images {
            let block = self.block(grid, count, draws)?;
            let (outside, inside) = match self.config.inverse {
                true => (1, 0),
                false => (0, 1),
            };
            let mut row = vec![outside; grid.len()];
            block.into_iter().for_each(|id| row[id] = inside);
            bits.extend(row);
        }
        Ok(bits)
    }

    /// A block of `count` patches.
    fn block(&self, grid: PatchGrid, count: usize, draws: &mut impl Draws) -> Result<Vec<usize>> {
        let (rows, cols, patches) = (grid.rows as f64, grid.cols as f64, count as f64);
        let low = self.log_aspect.0.max((patches / (cols * cols)).ln());
        let high = self.log_aspect.1.min((rows * rows / (patches + 1e-5)).ln());
        if low > high {
            let why = format!("no block of {count} patches with this aspect fits a grid of {grid}");
            let fix = "use a wider range of aspects, or another mask_ratio";
            return Err(Error::config(
                NAME,
                "min_aspect",
                self.config.min_aspect,
                why,
                fix,
            ));
        }
        let aspect = draws.uniform(low, high).exp();
        let side = |length: f64, most: usize| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a side in patches"
            )]
            let side = length.sqrt().ceil() as usize;
            side.min(most)
        };
        let width = side(patches / aspect, grid.cols);
        // At the limit of the range, rounding may make it one patch too wide.
        let height = side(patches * aspect, grid.rows).max(count.div_ceil(width));
        let top = draws.integer(0, grid.rows - height.min(grid.rows));
        let left = draws.integer(0, grid.cols - width);
        let (down, right) = match self.config.roll {
            true => (
                draws.integer(0, grid.rows - 1),
                draws.integer(0, grid.cols - 1),
            ),
            false => (0, 0),
        };
        let cells = (0..height).flat_map(|row| (0..width).map(move |col| (row, col)));
        let id = |(row, col): (usize, usize)| {
            let (row, col) = (
                (top + row + down) % grid.rows,
                (left + col + right) % grid.cols,
            );
            row * grid.cols + col
        };
        // The last row is cut if there are too many patches.
        Ok(cells.take(count).map(id).collect())
    }

    /// The mask; the hidden patches with the smallest `noise` of each image are predicted.
    fn mask(&self, grid: PatchGrid, bits: &[u8], noise: &[f32]) -> Result<Mask> {
        let (hidden, predicted) = self.counts(grid)?;
        let images = bits.len() / grid.len();
        if noise.len() != images * hidden {
            return Err(Error::shape(
                "noise of a masker",
                format!("{hidden} numbers for each of {images} images"),
                noise.len(),
                "give one number per hidden patch",
            ));
        }
        let mut order = Vec::with_capacity(images * (grid.len() - hidden + predicted));
        for (row, noise) in bits.chunks(grid.len()).zip(noise.chunks(hidden)) {
            let ids = |value: u8| {
                let all = (0u32..).zip(row).filter(move |(_, bit)| **bit == value);
                all.map(|(id, _)| id)
            };
            order.extend(ids(0));
            let unseen: Vec<u32> = ids(1).collect();
            let chosen = argsort(noise).into_iter().take(predicted);
            order.extend(chosen.map(|place| unseen[place as usize]));
        }
        Mask::new(grid, order, vec![grid.len() - hidden; images])
    }
}

impl Masker for InverseBlockMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let bits = self.bits(rq.grid, rq.images, &mut Fresh(rng))?;
        let (hidden, _) = self.counts(rq.grid)?;
        let noise: Vec<f32> = (0..rq.images * hidden).map(|_| rng.random()).collect();
        self.mask(rq.grid, &bits, &noise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::request;
    use mim_core::StepContext;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn the_block_is_cut_in_its_last_row_and_wraps_around() {
        let config = InverseBlockMaskerConfig {
            mask_ratio: 0.7,
            pred_ratio: 0.5,
            ..InverseBlockMaskerConfig::default()
        };
        let masker = config.build().unwrap();
        let grid = PatchGrid::new(4, 4);
        // Five patches in a square of 3x3 at (0, 1), shifted by (3, 2).
        let noise: Vec<f32> = (0..11).map(|at| 1. / (at as f32 + 1.)).collect();
        let mask = masker
            .from_draws(grid, 1, (&[0., 0., 1., 3., 2.], &noise))
            .unwrap();
        assert_eq!(mask.visible(0), [0, 3, 12, 13, 15]);
        assert_eq!(mask.hidden(0), [14, 11, 10, 9, 8]);
        assert!(
            masker
                .from_draws(grid, 1, (&[0., 0., 1., 3.], &noise))
                .is_err()
        );
        assert!(
            masker
                .from_draws(grid, 1, (&[0., 0., 1., 3., 2.], &noise[1..]))
                .is_err()
        );
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut InverseBlockMaskerConfig));
        let wrong: [Wrong; 4] = [
            ("`mask_ratio` is 1", |c| c.mask_ratio = 1.),
            ("`pred_ratio` is 0", |c| c.pred_ratio = 0.),
            ("`min_aspect` is 0", |c| c.min_aspect = 0.),
            ("max_aspect = 0.2", |c| c.max_aspect = Some(0.2)),
        ];
        for (what, spoil) in wrong {
            let mut config = InverseBlockMaskerConfig::default();
            spoil(&mut config);
            let error = config.build().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let masker = InverseBlockMaskerConfig::default().build().unwrap();
        let error = masker.counts(PatchGrid::new(4, 4)).unwrap_err().to_string();
        assert!(error.contains("is predicted"), "{error}");
        let step = StepContext::new(0);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let tall = InverseBlockMaskerConfig {
            min_aspect: 8.,
            max_aspect: Some(9.),
            pred_ratio: 0.5,
            ..InverseBlockMaskerConfig::default()
        };
        let sampled = tall
            .build()
            .unwrap()
            .sample(&request(&step, 1, PatchGrid::new(6, 6)), &mut rng);
        let error = sampled.unwrap_err().to_string();
        assert!(error.contains("fits a grid of 6x6"), "{error}");
    }

    proptest! {
        #[test]
        fn counts_are_exact(seed in any::<u64>(), rows in 5usize..12, percent in 40u32..80, inverse in any::<bool>()) {
            let (grid, step) = (PatchGrid::new(rows, 8), StepContext::new(0));
            let config = InverseBlockMaskerConfig {
                mask_ratio: f64::from(percent) / 100.,
                pred_ratio: 0.3,
                min_aspect: 0.3,
                inverse,
                ..InverseBlockMaskerConfig::default()
            };
            let masker = config.build().unwrap();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mask = masker.sample(&request(&step, 3, grid), &mut rng).unwrap();
            let (hidden, predicted) = masker.counts(grid).unwrap();
            prop_assert_eq!(mask.constant_keep(), Some(grid.len() - hidden));
            prop_assert_eq!(mask.hidden_total(), 3 * predicted);
            prop_assert_eq!(mask.rows(), 3);
        }
    }
}
