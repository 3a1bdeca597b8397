//! iBOT: hides rectangles up to a random share of the image.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::blocks::BlockRule;
use crate::count::{check_range, share};
use crate::draws::{Draws, Fresh, Recorded, fill_up};
use crate::{MaskRequest, Masker, MaskerSettings};

const NAME: &str = "iBOT masker";

/// A range of hidden shares: uniform in `mean - spread .. mean + spread`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatioRange {
    /// Middle of the range.
    pub mean: f64,
    /// Half the width of the range; with 0 the share is always `mean`, and nothing is drawn.
    #[serde(default)]
    pub spread: f64,
}

/// Shape of the hidden regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IbotShape {
    /// Rectangles; possibly a few patches fewer than the share.
    Block,
    /// Single patches; exactly `floor(tokens * share)`.
    Random,
}

/// Settings of [`IbotBlockMasker`]; `Default` is the iBOT recipe: half of the images without a
/// mask, 10 to 50 % of the patches hidden in the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IbotBlockMaskerConfig {
    /// The ranges; one is chosen per image, all with equal probability.
    pub ratios: Vec<RatioRange>,
    /// Shape of the hidden regions.
    pub shape: IbotShape,
    /// First epoch with masks.
    pub start_epoch: usize,
    /// Minimum height / width of a block.
    pub min_aspect: f64,
    /// Attempts to place a block before it stops.
    pub attempts: usize,
}

impl Default for IbotBlockMaskerConfig {
    fn default() -> Self {
        let range = |mean, spread| RatioRange { mean, spread };
        Self {
            ratios: vec![range(0., 0.), range(0.3, 0.2)],
            shape: IbotShape::Block,
            start_epoch: 0,
            min_aspect: 0.3,
            attempts: 10,
        }
    }
}

impl IbotBlockMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if there is no range, if one is outside `[0, 1)`, or if aspect or
    /// attempts are not positive.
    pub fn build(&self) -> Result<IbotBlockMasker> {
        for (field, empty) in [
            ("ratios", self.ratios.is_empty()),
            ("attempts", self.attempts == 0),
        ] {
            if empty {
                let fix = format!("set {field} to 1 or more, or remove it to use the default");
                return Err(Error::config(
                    NAME,
                    field,
                    0,
                    "there must be at least one",
                    fix,
                ));
            }
        }
        for range in &self.ratios {
            check_range(NAME, "ratios", range.mean - range.spread)?;
            check_range(NAME, "ratios", range.mean + range.spread)?;
        }
        Ok(IbotBlockMasker {
            log_aspect: BlockRule::log_aspect(NAME, self.min_aspect, None)?,
            config: self.clone(),
        })
    }
}

impl Part for IbotBlockMaskerConfig {
    const ABOUT: &'static str = "rectangles up to a share drawn for each image";
    const PAPER: &'static str = "iBOT: Zhou et al., ICLR 2022, arXiv 2111.07832";
    const SMALL: &'static str = "ratios = [{ mean = 0.5, spread = 0.2 }]";
}

impl MaskerSettings for IbotBlockMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Hides random rectangles up to a share drawn per image, so the count varies and may be zero.
///
/// The smallest area is `(min(rows, cols) / 3)^2`, with the quotient rounded down.
/// iBOT (Zhou et al., ICLR 2022), release.
#[derive(Debug, Clone)]
pub struct IbotBlockMasker {
    config: IbotBlockMaskerConfig,
    log_aspect: (f64, f64),
}

impl IbotBlockMasker {
    fn ratio(&self, epoch: usize, draws: &mut impl Draws) -> f64 {
        if epoch < self.config.start_epoch {
            return 0.;
        }
        let drawn: Vec<f64> = self
            .config
            .ratios
            .iter()
            .map(|range| match range.spread > 0. {
                true => draws.uniform(range.mean - range.spread, range.mean + range.spread),
                false => range.mean,
            })
            .collect();
        match drawn.as_slice() {
            [only] => *only,
            many => many[draws.integer(0, many.len() - 1)],
        }
    }

    /// The mask of one image for recorded `draws`, in order of drawing.
    ///
    /// A share for each range with a spread; the index of the range if there are several; then the draws of
    /// [`BlockwiseMasker::from_draws`](crate::BlockwiseMasker::from_draws), or the patches.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the draws do not match.
    pub fn from_draws(&self, grid: PatchGrid, draws: &[f64]) -> Result<Mask> {
        let mut recorded = Recorded::new(draws);
        let bits = self.bits(grid, self.config.start_epoch, &mut recorded)?;
        recorded.finish()?;
        Mask::from_bits(grid, &bits)
    }

    /// 1 for each hidden patch of one image.
    fn bits(&self, grid: PatchGrid, epoch: usize, draws: &mut impl Draws) -> Result<Vec<u8>> {
        let ratio = self.ratio(epoch, draws);
        let mut bits = vec![0u8; grid.len()];
        match self.config.shape {
            IbotShape::Random => fill_up(&mut bits, share(grid.len(), ratio), draws),
            IbotShape::Block => {
                let rule = BlockRule {
                    min_area: (grid.rows.min(grid.cols) / 3).pow(2) as f64,
                    max_area: f64::INFINITY,
                    log_aspect: self.log_aspect,
                    attempts: Some(self.config.attempts),
                };
                // The share is not rounded to whole patches; it limits areas and counts directly.
                rule.place(grid, ratio * grid.len() as f64, &mut bits, draws)?;
            }
        }
        Ok(bits)
    }
}

impl Masker for IbotBlockMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let mut bits = Vec::with_capacity(rq.images * rq.grid.len());
        for _ in 0..rq.images {
            bits.extend(self.bits(rq.grid, rq.step.epoch, &mut Fresh(rng))?);
        }
        Mask::from_bits(rq.grid, &bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::request;
    use mim_core::StepContext;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn hides_nothing_before_the_start_epoch() {
        let masker = IbotBlockMaskerConfig {
            ratios: vec![RatioRange {
                mean: 0.5,
                spread: 0.,
            }],
            start_epoch: 3,
            ..IbotBlockMaskerConfig::default()
        }
        .build()
        .unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut hidden = |epoch| {
            let step = StepContext {
                epoch,
                ..StepContext::new(0)
            };
            let rq = request(&step, 1, PatchGrid::new(8, 8));
            masker.sample(&rq, &mut rng).unwrap().hidden_total()
        };
        assert_eq!(hidden(2), 0);
        assert!(hidden(3) > 0);
    }

    #[test]
    fn refuses_ranges_outside_the_unit_interval() {
        for ratios in [
            vec![],
            vec![RatioRange {
                mean: 0.1,
                spread: 0.2,
            }],
        ] {
            let config = IbotBlockMaskerConfig {
                ratios,
                ..IbotBlockMaskerConfig::default()
            };
            assert!(config.build().unwrap_err().to_string().contains("`ratios`"));
        }
    }
}
