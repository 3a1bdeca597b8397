//! Hides rectangles up to a count.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::blocks::BlockRule;
use crate::count::HiddenCount;
use crate::draws::{Draws, Fresh, Recorded, fill_up};
use crate::{MaskRequest, Masker, MaskerSettings};

const NAME: &str = "blockwise masker";

/// What to do when no further block can be placed in `attempts` attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStuck {
    /// Stop: fewer patches are hidden, so the count varies (BEiT, EVA, MaskFeat, data2vec).
    Stop,
    /// Fill up with single random patches (SIM).
    TopUp,
    /// Keep trying; the count is exact (BootMAE, CAE).
    Retry,
}

/// Settings of [`BlockwiseMasker`]; `Default` is the BEiT pre-training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlockwiseMaskerConfig {
    /// Maximum number of hidden patches.
    pub hidden: HiddenCount,
    /// Minimum drawn area of a block, in patches.
    pub min_block: usize,
    /// Maximum area of a block; if absent, the number of patches left to hide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_block: Option<usize>,
    /// Minimum height / width of a block.
    pub min_aspect: f64,
    /// Maximum height / width; `1 / min_aspect` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_aspect: Option<f64>,
    /// Attempts to place a block before it counts as stuck.
    pub attempts: usize,
    /// What to do then.
    pub when_stuck: OnStuck,
}

impl Default for BlockwiseMaskerConfig {
    fn default() -> Self {
        Self {
            hidden: HiddenCount::Patches { count: 75 },
            min_block: 16,
            max_block: None,
            min_aspect: 0.3,
            max_aspect: None,
            attempts: 10,
            when_stuck: OnStuck::Stop,
        }
    }
}

impl BlockwiseMaskerConfig {
    fn patches(count: usize) -> Self {
        Self {
            hidden: HiddenCount::Patches { count },
            ..Self::default()
        }
    }

    /// EVA's recipe (Fang et al., CVPR 2023): 105 of 16x16 patches.
    pub fn eva() -> Self {
        Self::patches(105)
    }

    /// MaskFeat's recipe (Wei et al., CVPR 2022, as in mmpretrain): 78 of 14x14 patches.
    pub fn maskfeat() -> Self {
        Self {
            min_block: 15,
            ..Self::patches(78)
        }
    }

    /// data2vec's recipe (Baevski et al., ICML 2022): 120 of 14x14 patches.
    pub fn data2vec() -> Self {
        Self::patches(120)
    }

    /// SIM's recipe (Tao et al., CVPR 2023): exactly 118 of 14x14 patches.
    pub fn sim() -> Self {
        Self {
            when_stuck: OnStuck::TopUp,
            ..Self::patches(118)
        }
    }

    /// CAE's recipe (Chen et al., IJCV 2023): exactly 98 of 14x14 patches.
    pub fn cae() -> Self {
        Self {
            when_stuck: OnStuck::Retry,
            ..Self::patches(98)
        }
    }

    /// The blocks of BootMAE's recipe (Dong et al., ECCV 2022): exactly 120 of 14x14 patches, at
    /// most 60 per block.
    pub fn bootmae() -> Self {
        Self {
            max_block: Some(60),
            when_stuck: OnStuck::Retry,
            ..Self::patches(120)
        }
    }

    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a ratio or aspect is outside its range, or a block has no
    /// patches or no attempts.
    pub fn build(&self) -> Result<BlockwiseMasker> {
        self.hidden.validate(NAME)?;
        let largest = self.max_block.unwrap_or(usize::MAX);
        for (field, value) in [
            ("min_block", self.min_block),
            ("max_block", largest),
            ("attempts", self.attempts),
        ] {
            if value == 0 {
                let fix = format!("set {field} to 1 or more");
                return Err(Error::config(
                    NAME,
                    field,
                    value,
                    "it must be positive",
                    fix,
                ));
            }
        }
        let attempts = match self.when_stuck {
            OnStuck::Retry => None,
            OnStuck::Stop | OnStuck::TopUp => Some(self.attempts),
        };
        Ok(BlockwiseMasker {
            hidden: self.hidden,
            top_up: self.when_stuck == OnStuck::TopUp,
            rule: BlockRule {
                min_area: self.min_block as f64,
                max_area: self.max_block.map_or(f64::INFINITY, |area| area as f64),
                log_aspect: BlockRule::log_aspect(NAME, self.min_aspect, self.max_aspect)?,
                attempts,
            },
        })
    }
}

impl Part for BlockwiseMaskerConfig {
    const ABOUT: &'static str = "rectangles up to a count";
    const PAPER: &'static str = "BEiT: Bao et al., ICLR 2022, arXiv 2106.08254; MaskFeat; SIM";
    const SMALL: &'static str = r#"
hidden = { type = "ratio", ratio = 0.6 }
min_block = 2
when_stuck = "retry"
"#;
}

impl MaskerSettings for BlockwiseMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Hides random rectangles until a count is reached.
///
/// Each block draws its area uniformly between `min_block` and the number of patches left to hide (in either
/// order), and its aspect log-uniformly. It must be smaller than the grid on both axes, and hide at least one
/// and at most all of the patches left to hide. Visible and hidden ids are ascending.
/// BEiT (Bao et al., ICLR 2022), Sec. 2.3 and its release.
#[derive(Debug, Clone)]
pub struct BlockwiseMasker {
    hidden: HiddenCount,
    rule: BlockRule,
    top_up: bool,
}

impl BlockwiseMasker {
    /// The mask of one image for recorded `draws`, in order of drawing.
    ///
    /// Per attempt: area, log aspect and, only if the block is smaller than the grid on both
    /// axes, top and left; then the patches of the top-up, if any.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the draws do not match, [`Error::InvalidConfig`] if the grid has too few patches.
    pub fn from_draws(&self, grid: PatchGrid, draws: &[f64]) -> Result<Mask> {
        let mut recorded = Recorded::new(draws);
        let bits = self.bits(grid, &mut recorded)?;
        recorded.finish()?;
        Mask::from_bits(grid, &bits)
    }

    /// 1 for each hidden patch of one image.
    pub(crate) fn bits(&self, grid: PatchGrid, draws: &mut impl Draws) -> Result<Vec<u8>> {
        let count = self.hidden.on(NAME, grid)?;
        let mut bits = vec![0u8; grid.len()];
        self.rule.place(grid, count as f64, &mut bits, draws)?;
        if self.top_up {
            fill_up(&mut bits, count, draws);
        }
        Ok(bits)
    }
}

impl Masker for BlockwiseMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let mut bits = Vec::with_capacity(rq.images * rq.grid.len());
        for _ in 0..rq.images {
            bits.extend(self.bits(rq.grid, &mut Fresh(rng))?);
        }
        Mask::from_bits(rq.grid, &bits)
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

    fn draw(config: &BlockwiseMaskerConfig, grid: PatchGrid, images: usize, seed: u64) -> Mask {
        let (step, mut rng) = (StepContext::new(0), ChaCha8Rng::seed_from_u64(seed));
        let masker = config.build().unwrap();
        masker
            .sample(&request(&step, images, grid), &mut rng)
            .unwrap()
    }

    /// Recorded draws and frequencies are also compared by `mim parity`.
    #[test]
    fn neighbour_frequencies_match_recorded_ones() {
        let check = |case: &str, config: &BlockwiseMaskerConfig, pointer: &str| {
            let case = Golden::load(case);
            let want = case.json["config"]["expect_statistics"].pointer(pointer);
            let want = want.and_then(serde_json::Value::as_f64).unwrap();
            let got = Statistics::of(&draw(config, PatchGrid::new(14, 14), 2000, 3));
            let off = (got.adjacent_equal - want).abs();
            assert!(off < 0.01, "{pointer}: {off}");
        };
        let (bootmae, sim) = (
            BlockwiseMaskerConfig::bootmae(),
            BlockwiseMaskerConfig::sim(),
        );
        let free = BlockwiseMaskerConfig {
            when_stuck: OnStuck::Stop,
            ..BlockwiseMaskerConfig::sim()
        };
        let case = "components/blockwise_mask_bootmae";
        check(case, &bootmae, "/adjacent_equal_block");
        let case = "components/blockwise_mask_sim";
        check(case, &sim, "/fixed/adjacent_equal");
        check(case, &free, "/free/adjacent_equal");
    }

    #[test]
    fn top_up_and_retry_are_exact_and_stop_is_not() {
        let counts = |config: BlockwiseMaskerConfig| {
            draw(&config, PatchGrid::new(14, 14), 200, 1).constant_keep()
        };
        assert_eq!(counts(BlockwiseMaskerConfig::sim()), Some(196 - 118));
        assert_eq!(counts(BlockwiseMaskerConfig::cae()), Some(196 - 98));
        assert_eq!(counts(BlockwiseMaskerConfig::default()), None);
    }

    #[test]
    fn impossible_settings_give_an_error_instead_of_a_loop() {
        let step = StepContext::new(0);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let masker = BlockwiseMaskerConfig {
            hidden: HiddenCount::Patches { count: 4 },
            ..BlockwiseMaskerConfig::bootmae()
        }
        .build()
        .unwrap();
        let one_row = request(&step, 1, PatchGrid::new(1, 9));
        let error = masker.sample(&one_row, &mut rng).unwrap_err();
        assert!(error.to_string().contains("1x9"), "{error}");
        let small = request(&step, 1, PatchGrid::new(2, 2));
        let error = masker.sample(&small, &mut rng).unwrap_err();
        assert!(error.to_string().contains("2x2 has 4 patches"), "{error}");
    }

    #[test]
    fn refuses_invalid_settings() {
        let good = BlockwiseMaskerConfig::default;
        for (config, field) in [
            (
                BlockwiseMaskerConfig {
                    min_aspect: 0.,
                    ..good()
                },
                "min_aspect",
            ),
            (
                BlockwiseMaskerConfig {
                    max_aspect: Some(0.1),
                    ..good()
                },
                "max_aspect",
            ),
            (
                BlockwiseMaskerConfig {
                    attempts: 0,
                    ..good()
                },
                "`attempts`",
            ),
            (
                BlockwiseMaskerConfig {
                    max_block: Some(0),
                    ..good()
                },
                "`max_block`",
            ),
            (
                BlockwiseMaskerConfig {
                    hidden: HiddenCount::Ratio { ratio: 1.2 },
                    ..good()
                },
                "`ratio`",
            ),
        ] {
            let error = config.build().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    proptest! {
        #[test]
        fn the_count_is_never_exceeded(
            seed in any::<u64>(), rows in 3usize..10, cols in 3usize..10, percent in 12u32..90, min_block in 1usize..20,
        ) {
            let grid = PatchGrid::new(rows, cols);
            let ratio = f64::from(percent) / 100.;
            let config = BlockwiseMaskerConfig {
                hidden: HiddenCount::Ratio { ratio },
                min_block,
                ..BlockwiseMaskerConfig::default()
            };
            let most = (grid.len() as f64 * ratio) as usize;
            let mask = draw(&config, grid, 2, seed);
            prop_assert!((0..2).all(|row| mask.hidden(row).len() <= most));
            let exact = BlockwiseMaskerConfig { when_stuck: OnStuck::TopUp, ..config };
            prop_assert_eq!(draw(&exact, grid, 2, seed).constant_keep(), Some(grid.len() - most));
        }
    }
}
