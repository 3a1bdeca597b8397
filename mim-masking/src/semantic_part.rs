//! Hides patches by semantic part: first within parts, later whole parts.

use mim_core::parts::Part;
use mim_core::{Error, Mask, NO_PART, PatchGrid, Result, StepContext};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::count::{check_ratio, share};
use crate::random::argsort;
use crate::{Guide, GuideKind, MaskRequest, Masker, MaskerSettings};

const NAME: &str = "semantic_part masker";

/// Settings of [`SemanticPartMasker`]; `Default` is SemMAE's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SemanticPartMaskerConfig {
    /// Share of hidden patches among those in a part, in `(0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// Number of parts, at most 255. Default 7.
    pub num_parts: usize,
    /// Epochs until whole parts are hidden; the length of the run if not set (the default).
    // Parity: 800 in the release, the length of its runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_epochs: Option<usize>,
    /// Exponent of the schedule; 1 is linear. Default 2.
    pub power: f64,
}

impl Default for SemanticPartMaskerConfig {
    fn default() -> Self {
        Self {
            mask_ratio: 0.75,
            num_parts: 7,
            schedule_epochs: None,
            power: 2.,
        }
    }
}

impl SemanticPartMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] naming the invalid setting.
    pub fn build(&self) -> Result<SemanticPartMasker> {
        check_ratio(NAME, "mask_ratio", self.mask_ratio)?;
        let (field, value, why, fix) = if !(1..=255).contains(&self.num_parts) {
            (
                "num_parts",
                self.num_parts.to_string(),
                "there must be 1 to 255 parts",
                "use 7",
            )
        } else if self.schedule_epochs == Some(0) {
            (
                "schedule_epochs",
                "0".to_owned(),
                "the schedule needs at least one epoch",
                "remove it to use the length of the run",
            )
        } else if self.power.is_nan() || self.power <= 0. {
            (
                "power",
                self.power.to_string(),
                "it must be positive",
                "use 2",
            )
        } else {
            return Ok(SemanticPartMasker {
                config: self.clone(),
            });
        };
        Err(Error::config(NAME, field, value, why, fix))
    }
}

impl Part for SemanticPartMaskerConfig {
    const ABOUT: &'static str = "patches within parts of the image, later whole parts";
    const PAPER: &'static str = "SemMAE: Li et al., NeurIPS 2022, arXiv 2206.10207";
}

impl MaskerSettings for SemanticPartMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Numbers of hidden patches per part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartCounts {
    /// If the same share of each part is hidden.
    pub within: Vec<usize>,
    /// If whole parts are hidden, one after another.
    pub whole: Vec<usize>,
    /// The mixture for the current epoch.
    pub hidden: Vec<usize>,
}

/// Hides patches by part: at the start of training a share of each part, at the end whole parts.
///
/// Keeps `floor(patches * (1 - mask_ratio))` patches of each image: those left visible by the counts of the parts, and
/// more in random order up to that number. The mask lists only patches that belong to a part; all images must have
/// the same number of them.
///
/// SemMAE (Li et al., NeurIPS 2022), section 3.3; ucasligang/SemMAE @ 95b39ff, `models_mae_setting3.py`.
#[derive(Debug, Clone)]
pub struct SemanticPartMasker {
    config: SemanticPartMaskerConfig,
}

impl SemanticPartMasker {
    /// Share of the within-part rule in this epoch: `1 - ((epoch + 1) / epochs)^power`, at least 0.
    pub fn within_share(&self, step: &StepContext) -> f64 {
        let epochs = self.config.schedule_epochs.unwrap_or(step.epochs).max(1);
        let done = (step.epoch + 1) as f64 / epochs as f64;
        (1. - done.powf(self.config.power)).max(0.)
    }

    /// Numbers of hidden patches for parts of these sizes; `draws`, one per part, set the order in which whole parts
    /// are hidden.
    pub fn counts(&self, sizes: &[usize], draws: &[f32], within_share: f64) -> PartCounts {
        let ratio = self.config.mask_ratio;
        let mut counts = PartCounts {
            whole: vec![0; sizes.len()],
            ..PartCounts::default()
        };
        let budget = sizes.iter().sum::<usize>() as f64 * ratio;
        let mut before = 0;
        for part in argsort(draws) {
            let part = part as usize;
            counts.whole[part] = sizes[part].min(whole(budget - before as f64));
            before += sizes[part];
        }
        // Parity: products and sum are f32, rounded half to even.
        let (within, other) = (narrow(within_share), narrow(1. - within_share));
        for (&size, &whole_part) in sizes.iter().zip(&counts.whole) {
            let share = whole(f64::from((float(size) * narrow(ratio)).round_ties_even()));
            let both = (within * float(share) + other * float(whole_part)).round_ties_even();
            counts.within.push(share);
            counts.hidden.push(whole(f64::from(both)));
        }
        counts
    }

    /// Whether the counts alone hide each patch of an image, in the order of `parts`.
    pub fn judged(parts: &[u32], hidden: &[usize]) -> Vec<bool> {
        let mut seen = vec![0; hidden.len()];
        let judge = |&part: &u32| {
            let part = part as usize;
            seen[part] += 1;
            seen[part] <= hidden[part]
        };
        parts.iter().map(judge).collect()
    }

    /// The masks for `parts` `[images * patches]` and recorded draws: one number per patch, and one per part of each
    /// image `[images * num_parts]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the lengths do not match the grid or each other, or images have different numbers of patches
    /// in parts; [`Error::Unsupported`] if a part index is too large; [`Error::InvalidConfig`] if no patch would
    /// stay visible.
    pub fn from_draws(
        &self,
        grid: PatchGrid,
        parts: &[u32],
        (patch_draws, part_draws): (&[f32], &[f32]),
        within_share: f64,
    ) -> Result<Mask> {
        let (tokens, num_parts) = (grid.len(), self.config.num_parts);
        self.check(grid, parts, (patch_draws, part_draws))?;
        let (mut order, mut keep) = (Vec::new(), Vec::new());
        let images = parts.chunks(tokens).zip(patch_draws.chunks(tokens));
        for ((parts, draws), part_draws) in images.zip(part_draws.chunks(num_parts)) {
            let shuffled = argsort(draws).into_iter();
            let ids: Vec<u32> = shuffled
                .filter(|&id| parts[id as usize] != NO_PART)
                .collect();
            let shuffled: Vec<u32> = ids.iter().map(|&id| parts[id as usize]).collect();
            let mut sizes = vec![0; num_parts];
            shuffled.iter().for_each(|&part| sizes[part as usize] += 1);
            let hidden = self.counts(&sizes, part_draws, within_share).hidden;
            let judged = Self::judged(&shuffled, &hidden);
            let of = |wanted: bool| {
                ids.iter()
                    .zip(&judged)
                    .filter(move |(_, judged)| **judged == wanted)
            };
            order.extend(of(false).chain(of(true)).map(|(&id, _)| id));
            keep.push(share(ids.len(), 1. - self.config.mask_ratio));
        }
        if keep.contains(&0) {
            let (why, fix) = ("it would leave no patch visible", "lower mask_ratio");
            return Err(Error::config(
                NAME,
                "mask_ratio",
                self.config.mask_ratio,
                why,
                fix,
            ));
        }
        Mask::new(grid, order, keep)
    }

    fn check(&self, grid: PatchGrid, parts: &[u32], draws: (&[f32], &[f32])) -> Result<()> {
        let (tokens, num_parts) = (grid.len(), self.config.num_parts);
        let images = parts.len() / tokens;
        let fits = parts.len() == images * tokens
            && draws.0.len() == parts.len()
            && draws.1.len() == images * num_parts;
        if !fits || images == 0 {
            return Err(Error::shape(
                "parts of patches",
                format!("one number per patch, for whole images of {grid}"),
                parts.len(),
                "use part maps on the encoder's patch grid",
            ));
        }
        let large = |part: &&u32| **part != NO_PART && **part as usize >= num_parts;
        if let Some(part) = parts.iter().find(large) {
            return Err(Error::unsupported(
                format!("a patch of part {part}"),
                format!("num_parts is {num_parts}, and parts count from 0"),
                format!(
                    "set num_parts to at least {}, or correct the part maps ({NO_PART} means no part)",
                    part + 1
                ),
            ));
        }
        let listed = |parts: &[u32]| parts.iter().filter(|part| **part != NO_PART).count();
        let mut counts = parts.chunks(tokens).map(listed);
        let first = counts.next().unwrap_or_default();
        match counts.find(|count| *count != first) {
            Some(other) => Err(Error::shape(
                "patches that belong to a part",
                format!("{first} in each image of the batch, like in the first one"),
                other,
                "use views of whole images, or part maps that cover every patch",
            )),
            None => Ok(()),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the release computes in f32"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn float(count: usize) -> f32 {
    count as f32
}

/// The integer part of a count; 0 for negative ones.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of patches, cut at 0"
)]
fn whole(count: f64) -> usize {
    count.max(0.) as usize
}

impl Masker for SemanticPartMasker {
    fn guide(&self) -> GuideKind {
        GuideKind::Parts
    }

    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let Guide::Parts(parts) = rq.guide else {
            return Err(Error::unsupported(
                "hiding patches by their parts",
                "no part maps are available",
                "use the method semmae, which provides them, or another masker",
            ));
        };
        let mut draws = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random()).collect() };
        let patches = draws(rq.images * rq.grid.len());
        let part_draws = draws(rq.images * self.config.num_parts);
        let within = self.within_share(rq.step);
        self.from_draws(rq.grid, parts, (&patches, &part_draws), within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn masker(mask_ratio: f64, num_parts: usize) -> SemanticPartMasker {
        let config = SemanticPartMaskerConfig {
            mask_ratio,
            num_parts,
            ..SemanticPartMaskerConfig::default()
        };
        config.build().unwrap()
    }

    #[test]
    fn halves_round_to_even_and_whole_parts_go_in_order() {
        let counts = masker(0.75, 3).counts(&[6, 2, 0], &[0.9, 0.1, 0.5], 0.);
        // 4.5 and 1.5.
        assert_eq!(counts.within, [4, 2, 0]);
        // Parts 1, 2, 0 until 6 are hidden.
        assert_eq!(counts.whole, [4, 2, 0]);
        assert_eq!(counts.hidden, counts.whole);
        let within = masker(0.75, 3).counts(&[6, 2, 0], &[0.9, 0.1, 0.5], 1.);
        assert_eq!(within.hidden, within.within);
    }

    #[test]
    fn the_share_falls_from_one_to_zero() {
        let masker = masker(0.75, 7);
        let at = |epoch: usize| {
            let step = StepContext {
                epoch,
                epochs: 800,
                ..StepContext::new(0)
            };
            masker.within_share(&step)
        };
        assert_eq!((at(0), at(399), at(799)), (0.999_998_437_5, 0.75, 0.));
    }

    #[test]
    fn mismatched_part_maps_are_refused() {
        let masker = masker(0.5, 2);
        let run = |parts: &[u32]| {
            let draws = vec![0.5; parts.len().max(8)];
            let mask = masker.from_draws(
                PatchGrid::new(2, 2),
                parts,
                (&draws[..parts.len()], &draws[..parts.len() / 2]),
                1.,
            );
            mask.map(|mask| mask.width())
                .map_err(|error| error.to_string())
        };
        assert_eq!(run(&[0, 1, 1, 0, 0, 0, 1, 1]), Ok(4));
        assert_eq!(run(&[0, 1, 255, 0, 0, 0, 1, 255]), Ok(3));
        assert!(
            run(&[0, 1, 255, 0, 0, 0, 1, 1])
                .unwrap_err()
                .contains("3 in each image")
        );
        assert!(
            run(&[0, 1, 2, 0])
                .unwrap_err()
                .contains("num_parts to at least 3")
        );
        assert!(run(&[0, 1, 1]).unwrap_err().contains("patch grid"));
        for bad in [
            SemanticPartMaskerConfig {
                num_parts: 256,
                ..SemanticPartMaskerConfig::default()
            },
            SemanticPartMaskerConfig {
                power: 0.,
                ..SemanticPartMaskerConfig::default()
            },
        ] {
            assert!(bad.build().is_err());
        }
    }

    proptest! {
        #[test]
        fn the_requested_number_is_hidden_for_any_parts(
            seed in any::<u64>(), parts in proptest::collection::vec(0u32..5, 36), percent in 30u32..80, within in 0f64..1.,
        ) {
            use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
            let ratio = f64::from(percent) / 100.;
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut draws = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random()).collect() };
            let (patches, part_draws) = (draws(36), draws(5));
            let mask = masker(ratio, 5).from_draws(PatchGrid::new(6, 6), &parts, (&patches, &part_draws), within);
            let mask = mask.unwrap();
            prop_assert_eq!(mask.constant_keep(), Some(share(36, 1. - ratio)));
            prop_assert_eq!(mask.width(), 36);
        }
    }
}
