//! Cross-entropy with ids or with probabilities.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::ObjectiveSettings;
use super::pairing::{Pairs, Region, pair};
use crate::parts::Part;
use crate::{Error, LossTerms, Mask, Objective, Prediction, Result, StepContext, Target, ops};

/// Settings of [`CrossEntropy`]; `Default` is BEiT's: over hidden tokens.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossEntropyConfig {
    /// The tokens included in the loss.
    pub region: Region,
}

impl CrossEntropyConfig {
    /// Builds the objective.
    pub fn build(&self) -> CrossEntropy {
        CrossEntropy {
            region: self.region,
        }
    }
}

impl Part for CrossEntropyConfig {
    const ABOUT: &'static str = "cross-entropy with token ids or probabilities";
    const PAPER: &'static str = "BEiT: Bao et al., ICLR 2022, arXiv 2106.08254";
}

impl ObjectiveSettings for CrossEntropyConfig {
    fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.build()))
    }
}

/// The mean of `-log softmax(logits)[id]`, or of `-sum(p * log softmax(logits))`, over all included
/// tokens of the batch.
///
/// The target decides: u32 ids `[batch, tokens]` (BEiT), or probabilities `[batch, tokens, V]`
/// (mc-BEiT), which may track gradients.
#[derive(Debug, Clone)]
pub struct CrossEntropy {
    region: Region,
}

impl Objective for CrossEntropy {
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        _step: &StepContext,
    ) -> Result<LossTerms> {
        let Pairs {
            prediction: logits,
            target,
        } = pair(prediction, target, mask, self.region)?;
        let losses = match target.dtype() {
            DType::U32 if target.rank() == 1 => ops::cross_entropy(&logits, &target, 1.)?,
            DType::U32 => return Err(wrong(&target, &logits)),
            _ if target.dims() != logits.dims() => return Err(wrong(&target, &logits)),
            _ => ops::soft_cross_entropy(&logits, &target.to_dtype(DType::F32)?, 1.)?,
        };
        LossTerms::single("cross_entropy", losses.mean_all()?)
    }
}

fn wrong(target: &Tensor, logits: &Tensor) -> Error {
    Error::shape(
        "target of a cross-entropy",
        format!(
            "u32 ids [rows], or probabilities {:?} like the logits",
            logits.dims()
        ),
        (target.dims(), target.dtype()),
        "use a token target, and a decoder with one output per code",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::testing::{
        gradient_is_the_slope, loss, noise, predicted, same_from_all_and_from_hidden,
    };
    use crate::{PatchGrid, Rows};
    use candle_core::{Device, Var};

    fn ids() -> Target {
        let ids: Vec<u32> = vec![0, 1, 2, 3, 0, 1, 2, 3, 3, 2, 1, 0];
        Target::patches(Tensor::from_vec(ids, (2, 6), &Device::Cpu).unwrap())
    }

    fn soft() -> Target {
        let probabilities = ops::softmax(&noise(&[2, 6, 4], 7));
        Target::patches(probabilities.unwrap())
    }

    #[test]
    fn gradients_are_slopes_and_hidden_rows_are_enough() {
        let objective = CrossEntropyConfig::default().build();
        for target in [ids(), soft()] {
            let logits = (noise(&[2, 6, 4], 2) * 3.).unwrap();
            same_from_all_and_from_hidden(&objective, &logits, &target);
            gradient_is_the_slope(&objective, &logits, &target);
        }
    }

    #[test]
    fn known_values() {
        let mask = Mask::from_bits(PatchGrid::new(1, 2), &[1, 0]).unwrap();
        let logits = Tensor::new(&[[[0f32, 3f32.ln()], [50., 0.]]], &Device::Cpu).unwrap();
        let value = |target: Tensor| -> f32 {
            let prediction = predicted(&logits, Rows::Patches, &mask);
            let objective = CrossEntropyConfig::default().build();
            loss(&objective, &prediction, &Target::patches(target), &mask)
                .to_scalar()
                .unwrap()
        };
        let hard = value(Tensor::new(&[[1u32, 1]], &Device::Cpu).unwrap());
        assert!((hard - (4f32 / 3.).ln()).abs() < 1e-6);
        let soft = value(Tensor::new(&[[[0.5f32, 0.5], [0., 1.]]], &Device::Cpu).unwrap());
        assert!((soft - 0.5 * (4f32.ln() + (4f32 / 3.).ln())).abs() < 1e-6);
    }

    #[test]
    fn gradients_reach_a_tracked_target() {
        let mask = Mask::from_bits(PatchGrid::new(1, 1), &[1]).unwrap();
        let target = Var::new(&[[[0.5f32, 0.5]]], &Device::Cpu).unwrap();
        let logits = Tensor::new(&[[[0f32, 0.]]], &Device::Cpu).unwrap();
        let prediction = predicted(&logits, Rows::Masked, &mask);
        let objective = CrossEntropyConfig::default().build();
        let target_rows = Target::patches(target.as_tensor().clone());
        let loss = loss(&objective, &prediction, &target_rows, &mask);
        let grad = loss.backward().unwrap().get(&target).unwrap().clone();
        let grad: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
        assert!((grad[0] - 2f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn refuses_targets_of_another_vocabulary() {
        let mask = crate::objectives::testing::mask();
        let prediction = predicted(&noise(&[2, 6, 5], 1), Rows::Patches, &mask);
        let objective = CrossEntropyConfig::default().build();
        let step = StepContext::new(0);
        assert!(objective.loss(&prediction, &soft(), &mask, &step).is_err());
    }
}
