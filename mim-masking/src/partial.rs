//! Random masks with partial prediction.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::count::{check_ratio, share};
use crate::random::argsort;
use crate::{MaskRequest, Masker, MaskerSettings};

const NAME: &str = "partial masker";

/// Settings of [`PartialMasker`]; `Default` is the CrossMAE pre-training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PartialMaskerConfig {
    /// Share of patches that the encoder does not see, in `(0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// Share of all patches that is predicted, above 0 and at most `mask_ratio`. Default 0.25.
    pub pred_ratio: f64,
}

impl Default for PartialMaskerConfig {
    fn default() -> Self {
        Self {
            mask_ratio: 0.75,
            pred_ratio: 0.25,
        }
    }
}

impl PartialMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a ratio is outside its range.
    pub fn build(&self) -> Result<PartialMasker> {
        check_ratio(NAME, "mask_ratio", self.mask_ratio)?;
        check_ratio(NAME, "pred_ratio", self.pred_ratio)?;
        if self.pred_ratio > self.mask_ratio {
            let why = format!(
                "only hidden patches are predicted, and mask_ratio is {}",
                self.mask_ratio
            );
            let fix = "use at most mask_ratio";
            return Err(Error::config(NAME, "pred_ratio", self.pred_ratio, why, fix));
        }
        Ok(PartialMasker {
            config: self.clone(),
        })
    }
}

impl Part for PartialMaskerConfig {
    const ABOUT: &'static str =
        "uniform noise; some of the hidden patches are neither seen nor predicted";
    const PAPER: &'static str = "CrossMAE: Fu et al., TMLR 2025, arXiv 2401.14391";
}

impl MaskerSettings for PartialMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Shows some patches, hides some for prediction, and omits the rest; all counts are the same in every image.
///
/// Of `n` patches, those with the `floor(n * (1 - mask_ratio))` smallest numbers are visible, in order of their
/// numbers; the next `floor(n * (mask_ratio - pred_ratio))` are omitted; the rest is hidden, in image order.
/// CrossMAE (Fu et al., TMLR 2025), Sec. 3.2.
#[derive(Debug, Clone)]
pub struct PartialMasker {
    config: PartialMaskerConfig,
}

impl PartialMasker {
    /// The mask for recorded `noise` `[images * tokens]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the noise is not a multiple of the grid, [`Error::InvalidConfig`] if no patch would stay
    /// visible or none would be predicted.
    pub fn from_noise(&self, grid: PatchGrid, noise: &[f32]) -> Result<Mask> {
        let PartialMaskerConfig {
            mask_ratio,
            pred_ratio,
        } = self.config;
        let visible = share(grid.len(), 1. - mask_ratio);
        let skipped = share(grid.len(), mask_ratio - pred_ratio);
        for (field, ratio, count, what) in [
            ("mask_ratio", mask_ratio, visible, "stays visible"),
            (
                "pred_ratio",
                pred_ratio,
                grid.len() - visible - skipped,
                "is predicted",
            ),
        ] {
            if count == 0 {
                let why = format!("none of the {} patches {what}", grid.len());
                let fix = "use larger images or smaller patches, or another ratio";
                return Err(Error::config(NAME, field, ratio, why, fix));
            }
        }
        let row = |noise: &[f32]| {
            let mut order = argsort(noise);
            order.drain(visible.min(order.len())..(visible + skipped).min(order.len()));
            if let Some(hidden) = order.get_mut(visible..) {
                hidden.sort_unstable();
            }
            order
        };
        let order: Vec<u32> = noise.chunks(grid.len()).flat_map(row).collect();
        Mask::new(grid, order, vec![visible; noise.len() / grid.len()])
    }
}

impl Masker for PartialMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let noise: Vec<f32> = (0..rq.images * rq.grid.len())
            .map(|_| rng.random())
            .collect();
        self.from_noise(rq.grid, &noise)
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
    fn visible_ones_are_shuffled_and_predicted_ones_in_image_order() {
        let config = PartialMaskerConfig {
            mask_ratio: 0.6,
            pred_ratio: 0.4,
        };
        let noise = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2];
        let mask = config
            .build()
            .unwrap()
            .from_noise(PatchGrid::new(2, 3), &noise)
            .unwrap();
        assert_eq!(mask.visible(0), [1, 5]);
        // One patch, the next smallest, is omitted.
        assert_eq!(mask.hidden(0), [0, 2, 4]);
        assert_eq!(mask.to_bits(), [1, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn ratios_outside_their_range_are_named() {
        for (mask_ratio, pred_ratio, part) in [
            (1.2, 0.5, "`mask_ratio` is 1.2"),
            (0.5, 0., "`pred_ratio` is 0"),
            (0.5, 0.6, "use at most mask_ratio"),
        ] {
            let config = PartialMaskerConfig {
                mask_ratio,
                pred_ratio,
            };
            let error = config.build().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let config = PartialMaskerConfig {
            mask_ratio: 0.9,
            pred_ratio: 0.2,
        };
        let built = config.build().unwrap();
        let error = built
            .from_noise(PatchGrid::new(1, 4), &[0.; 4])
            .unwrap_err();
        assert!(error.to_string().contains("stays visible"), "{error}");
        assert!(built.from_noise(PatchGrid::new(4, 4), &[0.; 7]).is_err());
    }

    proptest! {
        #[test]
        fn counts_are_the_same_in_every_image(seed in any::<u64>(), rows in 3usize..9, percent in 20u32..75) {
            let (grid, step) = (PatchGrid::new(rows, 5), StepContext::new(0));
            let mask_ratio = f64::from(percent) / 100.;
            let config = PartialMaskerConfig { mask_ratio, pred_ratio: mask_ratio / 2. };
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mask = config.build().unwrap().sample(&request(&step, 3, grid), &mut rng).unwrap();
            let (visible, skipped) = (share(grid.len(), 1. - mask_ratio), share(grid.len(), mask_ratio / 2.));
            prop_assert_eq!(mask.constant_keep(), Some(visible));
            prop_assert_eq!(mask.hidden_total(), 3 * (grid.len() - visible - skipped));
        }
    }
}
