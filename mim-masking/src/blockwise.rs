//! Rectangles hidden up to a count.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::blocks::BlockRule;
use crate::count::HiddenCount;
use crate::draws::{Draws, Fresh, fill_up};
use crate::{MaskRequest, Masker, MaskerSettings};

const NAME: &str = "blockwise masker";

/// What happens when no further block can be placed in `attempts` attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStuck {
    /// The mask stays short of its count, so the count varies (BEiT, EVA, MaskFeat, data2vec).
    Stop,
    /// Single random patches fill it up to its count (SIM).
    TopUp,
    /// It goes on trying; the count is exact (BootMAE, CAE).
    Retry,
}

/// Settings of [`BlockwiseMasker`]; `Default` is the BEiT pre-training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlockwiseMaskerConfig {
    /// Hidden patches, at most.
    pub hidden: HiddenCount,
    /// Smallest drawn area of a block, in patches.
    pub min_block: usize,
    /// Largest area of a block; only limited by what is left to hide if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_block: Option<usize>,
    /// Smallest height / width of a block.
    pub min_aspect: f64,
    /// Largest height / width; `1 / min_aspect` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_aspect: Option<f64>,
    /// Attempts to place a block before it counts as stuck.
    pub attempts: usize,
    /// What happens then.
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
    /// most 60 a block.
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
    /// [`Error::InvalidConfig`] if a ratio or aspect is outside its range, or a block may have no
    /// patch or no attempt.
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
/// Each block draws its area uniformly between `min_block` and what is left to hide (in either
/// order), and its aspect log-uniformly; it must be smaller than the grid on both axes and hide
/// between one and all of the patches left to hide. Visible and hidden ids ascend.
/// BEiT (Bao et al., ICLR 2022), Sec. 2.3 and its release.
#[derive(Debug, Clone)]
pub struct BlockwiseMasker {
    hidden: HiddenCount,
    rule: BlockRule,
    top_up: bool,
}

impl BlockwiseMasker {
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
    use crate::draws::Tape;
    use crate::sampling::{Statistics, assert_mean, request};
    use mim_core::StepContext;
    use mim_testing::Golden;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use serde_json::Value;

    fn draw(config: &BlockwiseMaskerConfig, grid: PatchGrid, images: usize, seed: u64) -> Mask {
        let (step, mut rng) = (StepContext::new(0), ChaCha8Rng::seed_from_u64(seed));
        let masker = config.build().unwrap();
        masker
            .sample(&request(&step, images, grid), &mut rng)
            .unwrap()
    }

    fn number(value: &Value) -> usize {
        usize::try_from(value.as_u64().unwrap()).unwrap()
    }

    fn grid(value: &Value) -> PatchGrid {
        PatchGrid::new(number(&value[0]), number(&value[1]))
    }

    fn replay(config: &BlockwiseMaskerConfig, grid: PatchGrid, mut tape: Tape, want: &[u8]) {
        let bits = config.build().unwrap().bits(grid, &mut tape).unwrap();
        assert_eq!(bits, want);
        assert!(tape.is_used_up());
    }

    #[test]
    fn beits_traces_and_statistics() {
        let case = Golden::load("components/blockwise_masker");
        for (name, config) in case.json["config"]["traces"].as_object().unwrap() {
            let settings = BlockwiseMaskerConfig {
                min_block: number(&config["min_num_patches"]),
                ..BlockwiseMaskerConfig::patches(number(&config["num_masking_patches"]))
            };
            for trace in case.json["values"]["traces"][name].as_array().unwrap() {
                let rows = trace["mask"].as_array().unwrap().iter();
                let bits = rows.flat_map(|row| row.as_str().unwrap().bytes().map(|b| b - b'0'));
                replay(
                    &settings,
                    grid(&config["grid"]),
                    Tape::from_json(&trace["draws"]),
                    &bits.collect::<Vec<_>>(),
                );
            }
        }
        for entry in case.json["values"]["statistics"].as_array().unwrap() {
            let config = BlockwiseMaskerConfig {
                min_block: number(&entry["min_num_patches"]),
                max_block: Some(number(&entry["max_num_patches"])),
                ..BlockwiseMaskerConfig::patches(number(&entry["num_masking_patches"]))
            };
            let draws = number(&entry["draws"]);
            let grid = grid(&entry["grid"]);
            let got = Statistics::of(&draw(&config, grid, draws, 11));
            let std = entry["count_std"].as_f64().unwrap();
            let mean = entry["count_mean"].as_f64().unwrap();
            assert_mean(got.mean(), mean, std, draws as f64);
            let rows = entry["position_frequency_row_mean"].as_array().unwrap();
            for (row, want) in rows.iter().enumerate() {
                let row = &got.rate[row * grid.cols..(row + 1) * grid.cols];
                let rate = row.iter().sum::<f64>() / row.len() as f64;
                assert_mean(rate, want.as_f64().unwrap(), 0.5, draws as f64);
            }
        }
    }

    #[test]
    fn evas_traces_and_statistics() {
        let case = Golden::load("components/eva_blockwise_mask");
        for (i, entry) in case.json["config"]["cases"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            let config = BlockwiseMaskerConfig {
                min_block: number(&entry["min_block"]),
                max_block: entry["max_block"]
                    .as_u64()
                    .map(|x| usize::try_from(x).unwrap()),
                ..BlockwiseMaskerConfig::patches(number(&entry["num_masking"]))
            };
            let draws = case.values(&format!("input.draws_{i}"));
            let drawn = draws.iter().filter(|x| **x != -1.).map(|x| (None, *x));
            let want = case.bytes(&format!("expect.mask_{i}"));
            replay(&config, grid(&entry["grid"]), Tape::new(drawn), &want);
        }
        let statistics = case.json["config"]["expect_statistics"].as_array().unwrap();
        for (i, entry) in statistics.iter().enumerate() {
            let config = BlockwiseMaskerConfig::patches(number(&entry["num_masking"]));
            let got = Statistics::of(&draw(&config, grid(&entry["grid"]), 2000, 5));
            let number = |name: &str| entry[name].as_f64().unwrap();
            assert_mean(got.mean(), number("mean"), number("std"), 2000.);
            assert_mean(
                got.share(number("max")),
                number("fraction_exact"),
                0.5,
                2000.,
            );
            let rate = case.values(&format!("expect.mask_rate_{i}"));
            for (got, want) in got.rate.iter().zip(rate) {
                assert!((got - want).abs() < 0.08, "{got} against {want}");
            }
        }
    }

    #[test]
    fn bootmaes_tapes_and_statistics() {
        let case = Golden::load("components/blockwise_mask_bootmae");
        for (i, entry) in case.json["config"]["tapes"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            let config = BlockwiseMaskerConfig {
                min_block: number(&entry["min"]),
                max_block: Some(number(&entry["max"])),
                hidden: HiddenCount::Patches {
                    count: number(&entry["num"]),
                },
                ..BlockwiseMaskerConfig::bootmae()
            };
            let tape = Tape::new(
                case.values(&format!("input.tape{i}"))
                    .into_iter()
                    .map(|x| (None, x)),
            );
            let want = case.bytes(&format!("expect.mask{i}"));
            replay(&config, grid(&entry["grid"]), tape, &want);
        }
        let mask = draw(
            &BlockwiseMaskerConfig::bootmae(),
            PatchGrid::new(14, 14),
            2000,
            3,
        );
        assert_eq!(mask.constant_keep(), Some(76));
        let got = Statistics::of(&mask);
        let want = case.json["config"]["expect_statistics"]["adjacent_equal_block"].as_f64();
        assert!((got.adjacent_equal - want.unwrap()).abs() < 0.01);
        for (got, want) in got.rate.iter().zip(case.values("expect.freq_block")) {
            assert!((got - want).abs() < 0.08, "{got} against {want}");
        }
    }

    #[test]
    fn sims_statistics_with_and_without_top_up() {
        let case = Golden::load("components/blockwise_mask_sim");
        let free = BlockwiseMaskerConfig {
            when_stuck: OnStuck::Stop,
            ..BlockwiseMaskerConfig::sim()
        };
        for (name, config) in [("fixed", BlockwiseMaskerConfig::sim()), ("free", free)] {
            let want = &case.json["config"]["expect_statistics"][name];
            let got = Statistics::of(&draw(&config, PatchGrid::new(14, 14), 2000, 9));
            let std = want["std"].as_f64().unwrap_or(0.);
            assert_mean(got.mean(), want["mean"].as_f64().unwrap(), std, 2000.);
            assert!((got.adjacent_equal - want["adjacent_equal"].as_f64().unwrap()).abs() < 0.01);
            for (got, want) in got
                .rate
                .iter()
                .zip(case.values(&format!("expect.freq_{name}")))
            {
                assert!((got - want).abs() < 0.08, "{got} against {want}");
            }
        }
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
    fn impossible_settings_end_in_an_error_and_not_in_a_loop() {
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
    fn refuses_settings_without_sense() {
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
