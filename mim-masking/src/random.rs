//! Hides patches uniformly at random.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::count::{check_ratio, share};
use crate::{MaskRequest, Masker, MaskerSettings};

/// Settings of [`RandomMasker`]; `Default` is the MAE pre-training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomMaskerConfig {
    /// Share of hidden patches, in `(0, 1)`.
    pub mask_ratio: f64,
}

impl Default for RandomMaskerConfig {
    fn default() -> Self {
        Self { mask_ratio: 0.75 }
    }
}

impl RandomMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `mask_ratio` is outside `(0, 1)`.
    pub fn build(&self) -> Result<RandomMasker> {
        check_ratio("random masker", "mask_ratio", self.mask_ratio)?;
        Ok(RandomMasker {
            mask_ratio: self.mask_ratio,
        })
    }
}

impl Part for RandomMaskerConfig {
    const ABOUT: &'static str = "uniform noise; the patches with the smallest values stay visible";
    const PAPER: &'static str = "MAE: He et al., CVPR 2022, arXiv 2111.06377";
}

impl MaskerSettings for RandomMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Hides the same number of patches in every image, drawn uniformly without replacement.
///
/// Keeps `floor(tokens * (1 - mask_ratio))` patches: those with the smallest of one uniform number
/// per patch. Visible and hidden ids are in order of their numbers, so they are shuffled.
/// MAE (He et al., CVPR 2022), Sec. 3.
#[derive(Debug, Clone)]
pub struct RandomMasker {
    mask_ratio: f64,
}

impl RandomMasker {
    /// The mask for recorded `noise` `[images * tokens]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the noise is not a multiple of the grid, [`Error::InvalidConfig`] if no
    /// patch would stay visible.
    pub fn from_noise(&self, grid: PatchGrid, noise: &[f32]) -> Result<Mask> {
        let keep = share(grid.len(), 1. - self.mask_ratio);
        if keep == 0 {
            return Err(Error::config(
                "random masker",
                "mask_ratio",
                self.mask_ratio,
                format!("it would leave none of the {} patches visible", grid.len()),
                "lower mask_ratio, or use larger images or smaller patches",
            ));
        }
        let order: Vec<u32> = noise.chunks(grid.len()).flat_map(argsort).collect();
        Mask::new(grid, order, vec![keep; noise.len() / grid.len()])
    }
}

/// Indices of `values` in ascending order of value; ties in order of index.
pub(crate) fn argsort(values: &[f32]) -> Vec<u32> {
    let mut keyed: Vec<(f32, u32)> = values.iter().copied().zip(0u32..).collect();
    keyed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    keyed.into_iter().map(|(_, id)| id).collect()
}

impl Masker for RandomMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let noise: Vec<f32> = (0..rq.images * rq.grid.len())
            .map(|_| rng.random())
            .collect();
        self.from_noise(rq.grid, &noise)
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small positive numbers")]
mod tests {
    use super::*;
    use crate::sampling::request;
    use candle_core::Device;
    use mim_core::StepContext;
    use mim_testing::Golden;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn keeps_the_patches_with_the_smallest_noise_in_its_order() {
        let masker = RandomMaskerConfig { mask_ratio: 0.6 }.build().unwrap();
        let noise = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2];
        let mask = masker.from_noise(PatchGrid::new(2, 3), &noise).unwrap();
        assert_eq!(mask.visible(0), [1, 5]);
        assert_eq!(mask.hidden(0), [3, 0, 4, 2]);
    }

    #[test]
    fn refuses_a_ratio_outside_its_range() {
        for mask_ratio in [1.2, 1., -0.1, f64::NAN] {
            let error = RandomMaskerConfig { mask_ratio }.build().unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("`mask_ratio`") && text.contains("below 1"),
                "{text}"
            );
        }
        let error = RandomMaskerConfig { mask_ratio: 0.9 }
            .build()
            .unwrap()
            .from_noise(PatchGrid::new(1, 4), &[0.; 4])
            .unwrap_err();
        assert!(
            error.to_string().contains("none of the 4 patches"),
            "{error}"
        );
    }

    #[test]
    fn refuses_noise_of_another_grid() {
        let masker = RandomMaskerConfig::default().build().unwrap();
        assert!(masker.from_noise(PatchGrid::new(2, 2), &[0.; 6]).is_err());
        assert!(masker.from_noise(PatchGrid::new(2, 2), &[]).is_err());
    }

    #[test]
    fn recorded_noise_gives_the_recorded_mask() {
        for stem in ["case1_normpix", "case2_rawpix"] {
            let case = Golden::load(&format!("mae/{stem}"));
            let mask_ratio = case.json["config"]["mask_ratio"].as_f64().unwrap();
            let side = case.json["config"]["image_size"].as_u64().unwrap()
                / case.json["config"]["patch_size"].as_u64().unwrap();
            let side = usize::try_from(side).unwrap();
            let masker = RandomMaskerConfig { mask_ratio }.build().unwrap();
            let mask = masker
                .from_noise(PatchGrid::new(side, side), &case.floats("input.noise"))
                .unwrap();
            let flat = |xs: candle_core::Tensor| -> Vec<u32> {
                xs.flatten_all().unwrap().to_vec1().unwrap()
            };
            assert_eq!(
                flat(mask.ids_keep(&Device::Cpu).unwrap()),
                case.ids("input.ids_keep")
            );
            assert_eq!(
                flat(mask.ids_restore(&Device::Cpu).unwrap()),
                case.ids("input.ids_restore")
            );
            assert_eq!(mask.to_bits(), case.bytes("input.mask"));
        }
    }

    proptest! {
        #[test]
        fn counts_are_exact_and_restore_inverts_order(
            seed in any::<u64>(), rows in 2usize..9, cols in 2usize..9, percent in 1u32..75, images in 1usize..4,
        ) {
            let (grid, step) = (PatchGrid::new(rows, cols), StepContext::new(0));
            let config = RandomMaskerConfig { mask_ratio: f64::from(percent) / 100. };
            let draw = || {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                config.build().unwrap().sample(&request(&step, images, grid), &mut rng).unwrap()
            };
            let mask = draw();
            prop_assert_eq!(mask.rows(), images);
            prop_assert_eq!(mask.constant_keep(), Some((grid.len() as f64 * (1. - config.mask_ratio)) as usize));
            let order = mask.ids_order(&Device::Cpu).unwrap().to_vec2::<u32>().unwrap();
            let restore = mask.ids_restore(&Device::Cpu).unwrap().to_vec2::<u32>().unwrap();
            for (order, restore) in order.iter().zip(&restore) {
                for (token, &place) in restore.iter().enumerate() {
                    prop_assert_eq!(order[place as usize] as usize, token);
                }
            }
            prop_assert_eq!(draw(), mask);
        }
    }

    #[test]
    fn every_patch_is_hidden_equally_often() {
        let (grid, step) = (PatchGrid::new(3, 3), StepContext::new(0));
        let masker = RandomMaskerConfig { mask_ratio: 0.6 }.build().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mask = masker
            .sample(&request(&step, 4000, grid), &mut rng)
            .unwrap();
        let rate = crate::sampling::Statistics::of(&mask).rate;
        // 6 of 9 are hidden; one standard error is 0.0075.
        assert!(rate.iter().all(|r| (r - 2. / 3.).abs() < 0.04), "{rate:?}");
    }
}
