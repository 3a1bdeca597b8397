//! AttMask: hides the patches that a teacher attends to most.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::count::{check_range, share};
use crate::draws::{Draws, Fresh};
use crate::{Guide, GuideKind, MaskRequest, Masker, MaskerSettings, RatioRange};

const NAME: &str = "attention-guided masker";

/// Which patches are hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionMode {
    /// The most attended ones.
    High,
    /// The most attended ones, except some that are revealed as hints.
    Hint,
    /// The least attended ones.
    Low,
}

/// Settings of [`AttentionMasker`]; `Default` is AttMask's recipe: in half of the images, 10 to 50 % of the patches are
/// hidden, the most attended ones except for a few hints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionMaskerConfig {
    /// Which patches are hidden. Default `hint`.
    pub mode: AttentionMode,
    /// Share of hidden patches, drawn once for all images. Default 0.1 to 0.5.
    pub ratio: RatioRange,
    /// Probability that an image is masked. Default 0.5.
    pub masking_prob: f64,
    /// With `hint`: share of most attended patches from which hints are chosen; a separate
    /// draw of `ratio` gives their number. Default 0.1.
    pub show_max: f64,
    /// First epoch with masks. Default 0.
    pub start_epoch: usize,
}

impl Default for AttentionMaskerConfig {
    fn default() -> Self {
        Self {
            mode: AttentionMode::Hint,
            ratio: RatioRange {
                mean: 0.3,
                spread: 0.2,
            },
            masking_prob: 0.5,
            show_max: 0.1,
            start_epoch: 0,
        }
    }
}

impl AttentionMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a share is outside `[0, 1)` or the probability is outside `[0, 1]`.
    pub fn build(&self) -> Result<AttentionMasker> {
        check_range(NAME, "ratio", self.ratio.mean - self.ratio.spread)?;
        check_range(NAME, "ratio", self.ratio.mean + self.ratio.spread)?;
        check_range(NAME, "show_max", self.show_max)?;
        if !(0. ..=1.).contains(&self.masking_prob) {
            return Err(Error::config(
                NAME,
                "masking_prob",
                self.masking_prob,
                "it must be a probability",
                "use a number from 0 to 1",
            ));
        }
        Ok(AttentionMasker {
            config: self.clone(),
            recorded: None,
        })
    }
}

impl Part for AttentionMaskerConfig {
    const ABOUT: &'static str = "the patches that a teacher attends to most, or least";
    const PAPER: &'static str = "AttMask: Kakogeorgiou et al., ECCV 2022, arXiv 2203.12719";
}

impl MaskerSettings for AttentionMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Draws for one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionDraws {
    /// Share of hidden patches.
    pub masking_ratio: f64,
    /// Share of revealed patches.
    pub show_ratio: f64,
    /// One number in `[0, 1)` per row; nothing is hidden in a row above `masking_prob`.
    pub uniforms: Vec<f64>,
    /// With [`AttentionMode::Hint`], ids of the revealed patches, the same number for each row.
    pub reveal_ids: Vec<u32>,
}

/// Hides `int(tokens * ratio)` patches, selected by the attention of a teacher's class token, in a
/// share of the images.
///
/// With hints, `int(tokens * show_ratio)` of the `int(tokens * show_max)` most attended patches, drawn
/// uniformly, are revealed. Rows of a batch hide the same number of patches, or none.
/// AttMask (Kakogeorgiou et al., ECCV 2022); gkakogeorgiou/attmask @ 9f62061, `attmask.py`.
#[derive(Debug, Clone)]
pub struct AttentionMasker {
    config: AttentionMaskerConfig,
    recorded: Option<AttentionDraws>,
}

impl AttentionMasker {
    /// Uses recorded draws instead of new ones.
    #[must_use]
    pub fn with_draws(self, draws: AttentionDraws) -> Self {
        Self {
            recorded: Some(draws),
            ..self
        }
    }

    /// The masks for `draws` and `scores` `[rows, tokens]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the draws do not match the number of rows, or an id is not on the grid.
    pub fn from_draws(
        &self,
        grid: PatchGrid,
        scores: &[f32],
        draws: &AttentionDraws,
    ) -> Result<Mask> {
        let (tokens, rows) = (grid.len(), draws.uniforms.len());
        let bad = |expected: String, got: String| {
            let fix = "give one score per patch, and the draws of this batch";
            Err(Error::shape(NAME, expected, got, fix))
        };
        if rows == 0
            || scores.len() != rows * tokens
            || !draws.reveal_ids.len().is_multiple_of(rows)
        {
            return bad(
                format!("scores [{rows}, {tokens}] and the same number of ids per row"),
                format!("{} scores, {} ids", scores.len(), draws.reveal_ids.len()),
            );
        }
        let count = share(tokens, draws.masking_ratio).min(tokens);
        let shown = draws.reveal_ids.len() / rows;
        let mut bits = vec![0u8; rows * tokens];
        for (row, scores) in scores.chunks(tokens).enumerate() {
            if draws.uniforms[row] > self.config.masking_prob {
                continue;
            }
            let bits = &mut bits[row * tokens..][..tokens];
            let ids = match self.config.mode {
                AttentionMode::Low => ranked(scores).into_iter().rev().take(count).collect(),
                _ => ranked(scores).into_iter().take(count).collect::<Vec<_>>(),
            };
            ids.into_iter().for_each(|id| bits[id] = 1);
            for &id in &draws.reveal_ids[row * shown..][..shown] {
                match bits.get_mut(id as usize) {
                    Some(bit) => *bit = 0,
                    None => return bad(format!("ids below {tokens}"), id.to_string()),
                }
            }
        }
        Mask::from_bits(grid, &bits)
    }

    /// Draws for `scores` `[rows, tokens]`.
    fn draw(
        &self,
        epoch: usize,
        tokens: usize,
        scores: &[f32],
        draws: &mut impl Draws,
    ) -> AttentionDraws {
        let AttentionMaskerConfig {
            ratio, show_max, ..
        } = self.config;
        let mut ratio = || match (epoch < self.config.start_epoch, ratio.spread > 0.) {
            (true, _) => 0.,
            (_, true) => draws.uniform(ratio.mean - ratio.spread, ratio.mean + ratio.spread),
            (_, false) => ratio.mean,
        };
        let (masking_ratio, show_ratio) = (ratio(), show_max * ratio());
        let rows = scores.len() / tokens.max(1);
        let uniforms = (0..rows).map(|_| draws.uniform(0., 1.)).collect();
        AttentionDraws {
            masking_ratio,
            show_ratio,
            uniforms,
            reveal_ids: self.reveal(tokens, scores, show_ratio, draws),
        }
    }

    /// Ids of the revealed patches in each row.
    fn reveal(
        &self,
        tokens: usize,
        scores: &[f32],
        show_ratio: f64,
        draws: &mut impl Draws,
    ) -> Vec<u32> {
        let mut ids = Vec::new();
        if self.config.mode != AttentionMode::Hint {
            return ids;
        }
        let top = share(tokens, self.config.show_max);
        for scores in scores.chunks(tokens) {
            let mut from = ranked(scores);
            from.truncate(top);
            // Parity: the release fails if this is 0; here nothing is revealed.
            for _ in 0..share(tokens, show_ratio).min(top) {
                let pick = draws.integer(0, from.len() - 1);
                #[expect(clippy::cast_possible_truncation, reason = "grids fit u32")]
                ids.push(from.swap_remove(pick) as u32);
            }
        }
        ids
    }
}

/// Ids by descending score; ties by ascending id.
fn ranked(scores: &[f32]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..scores.len()).collect();
    ids.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    ids
}

impl Masker for AttentionMasker {
    fn guide(&self) -> GuideKind {
        GuideKind::Scores
    }

    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let tokens = rq.grid.len();
        let scores = match rq.guide {
            Guide::Scores(scores) if scores.len() == rq.images * tokens => scores,
            other => {
                let got = match other {
                    Guide::Scores(scores) => scores.len(),
                    _ => 0,
                };
                return Err(Error::shape(
                    NAME,
                    format!("{} scores of {tokens} patches", rq.images),
                    got,
                    "guide it by the attention of an encoder with a class token",
                ));
            }
        };
        let draws = match &self.recorded {
            Some(draws) => draws.clone(),
            None => self.draw(rq.step.epoch, tokens, scores, &mut Fresh(rng)),
        };
        self.from_draws(rq.grid, scores, &draws)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::StepContext;
    use mim_testing::Golden;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use serde_json::Value;

    fn number(entry: &Value, key: &str) -> f64 {
        entry[key].as_f64().unwrap()
    }

    fn masker(entry: &Value) -> AttentionMasker {
        let mode = match entry["mode"].as_str().unwrap() {
            "attmask_high" => AttentionMode::High,
            "attmask_hint" => AttentionMode::Hint,
            "attmask_low" => AttentionMode::Low,
            other => panic!("unknown mode {other}"),
        };
        AttentionMaskerConfig {
            mode,
            masking_prob: number(entry, "masking_prob"),
            show_max: number(entry, "show_max"),
            ..AttentionMaskerConfig::default()
        }
        .build()
        .unwrap()
    }

    fn square(tokens: usize) -> PatchGrid {
        PatchGrid::new(tokens.isqrt(), tokens.isqrt())
    }

    /// Masks for recorded draws are compared by `mim parity`.
    #[test]
    fn hint_frequencies_match_recorded_ones() {
        let case = Golden::load("components/attmask");
        let entry = &case.json["config"]["hint_frequency"];
        let tokens = case.dims("input.attention")[1];
        let scores = &case.floats("input.attention")[..tokens];
        let masker = masker(entry);
        let (draws, mut rng) = (number(entry, "draws"), ChaCha8Rng::seed_from_u64(3));
        let (mut seen, mut hidden) = (vec![0f64; tokens], 0);
        for _ in 0..4000 {
            let show_ratio = number(entry, "show_ratio");
            let mut fresh = Fresh(&mut rng);
            let one = AttentionDraws {
                masking_ratio: number(entry, "masking_ratio"),
                show_ratio,
                uniforms: vec![0.3],
                reveal_ids: masker.reveal(tokens, scores, show_ratio, &mut fresh),
            };
            let mask = masker.from_draws(square(tokens), scores, &one).unwrap();
            hidden += mask.hidden_total();
            for &id in mask.visible(0) {
                seen[id as usize] += 1. / draws;
            }
        }
        let each = number(entry, "n_masked") - number(entry, "n_reveal");
        assert_eq!(hidden as f64, 4000. * each);
        let wanted = case.values("expect.hint_unmasked_freq");
        for (got, want) in seen.iter().zip(&wanted) {
            // Both are samples: allow 3 standard errors each.
            let allowed = 6. * (want * (1. - want) / draws).sqrt() + 1e-9;
            assert!((got - want).abs() <= allowed, "{got}, recorded {want}");
        }
    }

    fn sample(config: &AttentionMaskerConfig, seed: u64, epoch: usize, images: usize) -> Mask {
        let scores: Vec<f32> = (0..images * 196)
            .map(|at| ((at * at) % 197) as f32)
            .collect();
        let step = StepContext {
            epoch,
            ..StepContext::new(0)
        };
        let rq = MaskRequest {
            images,
            grid: square(196),
            guide: Guide::Scores(&scores),
            step: &step,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        config.build().unwrap().sample(&rq, &mut rng).unwrap()
    }

    #[test]
    fn counts_are_truncated_products() {
        let config = |mode, mean: f64| AttentionMaskerConfig {
            mode,
            ratio: RatioRange { mean, spread: 0. },
            masking_prob: 1.,
            ..AttentionMaskerConfig::default()
        };
        // 196 * 0.3 = 58.8; with hints, int(196 * 0.1 * 0.3) = 5 of the first 19 are revealed.
        for (mode, hidden) in [
            (AttentionMode::High, 58),
            (AttentionMode::Low, 58),
            (AttentionMode::Hint, 53),
        ] {
            let mask = sample(&config(mode, 0.3), 1, 0, 3);
            assert_eq!(mask.constant_keep(), Some(196 - hidden), "{mode:?}");
        }
        let late = AttentionMaskerConfig {
            start_epoch: 2,
            ..config(AttentionMode::Hint, 0.3)
        };
        assert_eq!(sample(&late, 1, 1, 3).hidden_total(), 0);
        assert_eq!(sample(&late, 1, 2, 3).hidden_total(), 3 * 53);
    }

    proptest! {
        #[test]
        fn images_of_a_batch_have_the_same_count_or_none(seed in 0u64..500) {
            let mask = sample(&AttentionMaskerConfig::default(), seed, 0, 16);
            let mut counts: Vec<usize> = (0..16).map(|row| mask.hidden(row).len()).collect();
            counts.retain(|count| *count > 0);
            counts.dedup();
            prop_assert!(counts.len() <= 1);
            // int(196 r) are hidden and int(19.6 s) revealed, with r and s in 0.1 to 0.5.
            prop_assert!(counts.iter().all(|count| (10..=97).contains(count)));
        }
    }

    #[test]
    fn refuses_other_guides_and_invalid_settings() {
        let masker = AttentionMaskerConfig::default().build().unwrap();
        let step = StepContext::new(0);
        let rq = crate::sampling::request(&step, 2, square(4));
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let error = masker.sample(&rq, &mut rng).unwrap_err().to_string();
        assert!(error.contains("class token"), "{error}");
        let draws = AttentionDraws {
            masking_ratio: 0.5,
            show_ratio: 0.,
            uniforms: vec![0., 0.],
            reveal_ids: vec![],
        };
        assert!(masker.from_draws(square(4), &[0.; 4], &draws).is_err());
        for (ratio, prob, field) in [(0.9, 0.5, "ratio"), (0.3, 1.5, "masking_prob")] {
            let mut config = AttentionMaskerConfig::default();
            (config.ratio.mean, config.masking_prob) = (ratio, prob);
            let error = config.build().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
