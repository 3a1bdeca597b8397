//! Keeps patches with a probability proportional to a score.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::count::{check_ratio, share};
use crate::{Guide, GuideKind, MaskRequest, Masker, MaskerSettings};

const NAME: &str = "weighted masker";

/// Settings of [`WeightedMasker`]; `Default` is MILAN's pre-training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightedMaskerConfig {
    /// Share of hidden patches, in `[0, 1)`. Default 0.75.
    pub mask_ratio: f64,
}

impl Default for WeightedMaskerConfig {
    fn default() -> Self {
        Self { mask_ratio: 0.75 }
    }
}

impl WeightedMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `mask_ratio` is outside `[0, 1)`.
    pub fn build(&self) -> Result<WeightedMasker> {
        check_ratio(NAME, "mask_ratio", self.mask_ratio)?;
        Ok(WeightedMasker {
            mask_ratio: self.mask_ratio,
            counts_hidden: false,
        })
    }
}

impl Part for WeightedMaskerConfig {
    const ABOUT: &'static str =
        "random draws, weighted by a teacher's attention; the patches drawn first stay visible";
    const PAPER: &'static str = "MILAN: Hou et al., 2022, arXiv 2208.06049";
}

impl MaskerSettings for WeightedMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Keeps patches at random, more often those that a teacher attends to.
///
/// It keeps `floor(tokens * (1 - mask_ratio))` patches of an image, drawn one by one without replacement, each with a
/// probability proportional to its score. Visible ids are in order of drawing.
///
/// Semantic-aware sampling of MILAN (Hou et al., arXiv 2208.06049, section 3.3).
#[derive(Debug, Clone)]
pub struct WeightedMasker {
    mask_ratio: f64,
    counts_hidden: bool,
}

impl WeightedMasker {
    /// Rounds the hidden number instead: hides `floor(tokens * mask_ratio)` and keeps the rest (I2P-MAE).
    #[must_use]
    pub fn counting_hidden(self) -> Self {
        Self {
            counts_hidden: true,
            ..self
        }
    }

    /// The mask for `scores` `[images * tokens]` and as many recorded draws of the unit exponential
    /// distribution: patches in descending order of score over draw.
    ///
    /// This equals successive draws without replacement (Efraimidis and Spirakis, 2006).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the lengths do not match the grid or each other, [`Error::Unsupported`] for a
    /// score that is negative or NaN, [`Error::InvalidConfig`] if no patch would stay visible.
    pub fn from_draws(&self, grid: PatchGrid, scores: &[f32], draws: &[f32]) -> Result<Mask> {
        let keep = match self.counts_hidden {
            true => grid.len() - share(grid.len(), self.mask_ratio),
            false => share(grid.len(), 1. - self.mask_ratio),
        };
        if keep == 0 {
            return Err(Error::config(
                NAME,
                "mask_ratio",
                self.mask_ratio,
                format!("it would leave none of the {} patches visible", grid.len()),
                "lower mask_ratio, or use larger images or smaller patches",
            ));
        }
        if scores.len() != draws.len() || !scores.len().is_multiple_of(grid.len()) {
            return Err(Error::shape(
                "scores of patches",
                format!("{} numbers, whole images of {grid}", draws.len()),
                scores.len(),
                "guide the masker by a teacher with the same patch grid",
            ));
        }
        if let Some(bad) = scores.iter().find(|score| score.is_nan() || **score < 0.) {
            return Err(Error::unsupported(
                format!("a patch score of {bad}"),
                "scores must be weights, such as attention after softmax",
                "check the weights of the teacher that guides the masker",
            ));
        }
        let ranks = |(scores, draws): (&[f32], &[f32])| -> Vec<u32> {
            let mut keyed: Vec<(f32, u32)> = scores
                .iter()
                .zip(draws)
                .map(|(score, draw)| score / draw)
                .zip(0u32..)
                .collect();
            keyed.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            keyed.into_iter().map(|(_, id)| id).collect()
        };
        let order: Vec<u32> = scores
            .chunks(grid.len())
            .zip(draws.chunks(grid.len()))
            .flat_map(ranks)
            .collect();
        Mask::new(grid, order, vec![keep; scores.len() / grid.len()])
    }
}

impl Masker for WeightedMasker {
    fn guide(&self) -> GuideKind {
        GuideKind::Scores
    }

    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let Guide::Scores(scores) = rq.guide else {
            return Err(Error::unsupported(
                "weighting patches by scores",
                "no scores are available",
                "add a target with attention, such as CLIP features",
            ));
        };
        let mut draw = || {
            // Never 0, since scores are divided by it.
            let uniform: f32 = rng.random();
            -(1. - uniform).max(f32::MIN_POSITIVE).ln()
        };
        let draws: Vec<f32> = (0..rq.images * rq.grid.len())
            .map(|_| draw().max(f32::MIN_POSITIVE))
            .collect();
        self.from_draws(rq.grid, scores, &draws)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::request;
    use mim_core::StepContext;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn masker(mask_ratio: f64) -> WeightedMasker {
        WeightedMaskerConfig { mask_ratio }.build().unwrap()
    }

    #[test]
    fn high_scores_over_small_draws_come_first() {
        let (scores, draws) = ([0.1, 0.4, 0.3, 0.2], [1., 2., 0.5, 0.1]);
        let mask = masker(0.5)
            .from_draws(PatchGrid::new(2, 2), &scores, &draws)
            .unwrap();
        assert_eq!(
            (mask.visible(0), mask.hidden(0)),
            (&[3, 2][..], &[1, 0][..])
        );
    }

    #[test]
    fn refuses_invalid_weights_and_mismatched_grids() {
        let grid = PatchGrid::new(1, 2);
        for bad in [f32::NAN, -0.1] {
            let error = masker(0.5)
                .from_draws(grid, &[0.5, bad], &[1., 1.])
                .unwrap_err();
            assert!(error.to_string().contains("weights"), "{error}");
        }
        assert!(masker(0.5).from_draws(grid, &[0.5], &[1.]).is_err());
        assert!(masker(0.9).from_draws(grid, &[0.5; 2], &[1.; 2]).is_err());
        assert!(
            WeightedMaskerConfig { mask_ratio: 1. }.build().is_err(),
            "all hidden"
        );
        let step = StepContext::new(0);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        assert!(
            masker(0.5)
                .sample(&request(&step, 1, grid), &mut rng)
                .is_err()
        );
    }
}
