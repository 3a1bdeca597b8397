//! UniGrad: attraction to the target, repulsion through second moments.

use serde::{Deserialize, Serialize};

use super::ObjectiveSettings;
use super::pairing::{Region, pair_values};
use crate::comm::Reduce;
use crate::parts::Part;
use crate::{Error, LossTerms, Mask, Objective, Prediction, Result, StepContext, Target};

/// Settings of [`UniGrad`]; `Default` is SIM's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UniGradConfig {
    /// Weight of the repulsion. Default 0.02.
    pub neg_weight: f64,
}

impl Default for UniGradConfig {
    fn default() -> Self {
        Self { neg_weight: 0.02 }
    }
}

impl UniGradConfig {
    /// Checks the settings and builds the objective.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `neg_weight` is negative or not finite.
    pub fn build(&self) -> Result<UniGrad> {
        if self.neg_weight.is_finite() && self.neg_weight >= 0. {
            return Ok(UniGrad {
                config: self.clone(),
            });
        }
        Err(Error::config(
            "uni_grad objective",
            "neg_weight",
            self.neg_weight,
            "it must be finite and not negative",
            "use 0 for no repulsion",
        ))
    }
}

impl Part for UniGradConfig {
    const ABOUT: &'static str = "attraction to the target, repulsion through second moments";
    const PAPER: &'static str = "UniGrad: Tao et al., CVPR 2022, arXiv 2112.05141";
}

impl ObjectiveSettings for UniGradConfig {
    fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.build()?))
    }
}

/// `(mean |p - t|^2 + neg_weight * mean p C p^T) / dim` over all rows, where `C` is the mean of `t^T t`.
///
/// `C` `[dim, dim]` is averaged over processes and has no gradient. All rows of the prediction
/// are included, for any mask.
/// Tao et al., CVPR 2022, arXiv 2112.05141; OpenGVLab/Siamese-Image-Modeling @ bbdec30, `models_sim.py`.
#[derive(Debug, Clone)]
pub struct UniGrad {
    config: UniGradConfig,
}

impl Objective for UniGrad {
    /// Terms `pos` and `neg`, traced before weighting as `loss_pos` and `loss_neg`, `C` as `correlation`.
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<LossTerms> {
        let pairs = pair_values(prediction, target, mask, Region::All)?;
        let (ps, ts) = (pairs.prediction, pairs.target.contiguous()?);
        let (rows, dim) = ts.dims2()?;
        let (rows, dim) = (rows as f64, dim as f64);
        let constant = ts.detach();
        let own = (constant.t()?.contiguous()?.matmul(&constant)? / rows)?;
        let correlation = step.comm.all_reduce(&own, Reduce::Mean)?.detach();
        step.trace("correlation", || Ok(correlation.clone()))?;
        let pos = ((&ps - &ts)?.sqr()?.sum_all()? / rows)?;
        // Computed as sum((p C) * p): a matrix over all pairs of rows would not fit in memory.
        let neg = ((ps.matmul(&correlation)? * &ps)?.sum_all()? / rows)?;
        step.trace("loss_pos", || Ok(pos.clone()))?;
        step.trace("loss_neg", || Ok(neg.clone()))?;
        let mut terms = LossTerms::default();
        terms.push("pos", pos, 1. / dim)?;
        terms.push("neg", neg, self.config.neg_weight / dim)?;
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rows;
    use crate::objectives::testing::{gradient_is_the_slope, loss, mask, noise, predicted};
    use candle_core::{Device, Tensor};

    #[test]
    fn attraction_and_repulsion_of_known_rows() {
        let grid = crate::PatchGrid::new(1, 2);
        let mask = Mask::from_bits(grid, &[0, 1]).unwrap();
        let rows = |values: [[f32; 2]; 2]| Tensor::new(&[values], &Device::Cpu).unwrap();
        let target = Target::patches(rows([[1., 0.], [0., 2.]]));
        let prediction = predicted(&rows([[1., 1.], [2., 0.]]), Rows::Patches, &mask);
        let objective = UniGradConfig { neg_weight: 0.5 }.build().unwrap();
        // C = diag(1, 4) / 2; pos = (1 + 8) / 2; neg = (0.5 + 2 + 2) / 2.
        let loss: f32 = loss(&objective, &prediction, &target, &mask)
            .to_scalar()
            .unwrap();
        assert!((loss - (4.5 + 0.5 * 2.25) / 2.).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn the_gradient_is_the_slope() {
        let objective = UniGradConfig { neg_weight: 3. }.build().unwrap();
        let target = Target::patches(noise(&[2, 6, 4], 1));
        gradient_is_the_slope(&objective, &noise(&[2, 6, 4], 2), &target);
    }

    #[test]
    fn the_mask_does_not_matter_and_partial_rows_are_refused() {
        let objective = UniGradConfig::default().build().unwrap();
        let (values, target) = (noise(&[2, 6, 4], 2), Target::patches(noise(&[2, 6, 4], 1)));
        let mask = mask();
        let of = |mask: &Mask| -> f32 {
            let prediction = predicted(&values, Rows::Patches, mask);
            loss(&objective, &prediction, &target, mask)
                .to_scalar()
                .unwrap()
        };
        assert_eq!(of(&mask), of(&mask.complement()));
        let part = predicted(&values, Rows::Masked, &mask);
        let step = StepContext::new(0);
        assert!(objective.loss(&part, &target, &mask, &step).is_err());
    }

    #[test]
    fn refuses_invalid_weights() {
        for neg_weight in [-1., f64::NAN, f64::INFINITY] {
            assert!(UniGradConfig { neg_weight }.build().is_err());
        }
    }
}
