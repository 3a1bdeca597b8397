//! Cosine similarity of features.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::ObjectiveSettings;
use super::pairing::{Region, pair_values};
use crate::parts::Part;
use crate::{Error, LossTerms, Mask, Objective, Prediction, Result, Rows, StepContext, Target};

const NAME: &str = "cosine objective";

/// Smaller squared lengths count as this value, which is still a normal f32.
const SMALLEST_SQUARE: f64 = 1e-36;

/// The axis along which vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum CosineAxis {
    /// The features of one token.
    #[default]
    Features,
    /// One feature over the tokens of a fold. The hidden tokens of an image, in the mask's order,
    /// are cut into `folds` equal parts.
    // Parity: SdAE's release takes the cosine over the token axis.
    Tokens {
        /// Number of parts of the hidden tokens of an image.
        folds: usize,
    },
}

/// Settings of [`Cosine`]; `Default` is EVA's `-cos` over hidden tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CosineConfig {
    /// The loss is `offset - scale * cos`.
    pub offset: f64,
    /// The loss is `offset - scale * cos`.
    pub scale: f64,
    /// Minimum length of a vector in the divisor.
    pub eps: f64,
    /// The axis along which vectors are compared.
    pub axis: CosineAxis,
    /// The tokens included in the loss.
    pub region: Region,
}

impl Default for CosineConfig {
    fn default() -> Self {
        Self {
            offset: 0.,
            scale: 1.,
            eps: 1e-8,
            axis: CosineAxis::Features,
            region: Region::Masked,
        }
    }
}

impl CosineConfig {
    /// MILAN's `2 - 2 cos` over all tokens (Hou et al., 2022).
    pub fn milan() -> Self {
        Self {
            offset: 2.,
            scale: 2.,
            eps: 1e-12,
            region: Region::All,
            ..Self::default()
        }
    }

    /// SdAE's `1 - cos` over the tokens of each fold (Chen et al., ECCV 2022, release).
    pub fn sdae(folds: usize) -> Self {
        Self {
            offset: 1.,
            axis: CosineAxis::Tokens { folds },
            ..Self::default()
        }
    }

    /// Checks the settings and builds the objective.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `eps` is not in `[1e-18, 1]`, a factor is not finite, or there is
    /// no fold.
    pub fn build(&self) -> Result<Cosine> {
        let bad = |field: &'static str, value: String, why: &'static str| {
            Err(Error::config(
                NAME,
                field,
                value,
                why,
                "remove it to use the default",
            ))
        };
        if !(1e-18..=1.).contains(&self.eps) {
            return bad("eps", self.eps.to_string(), "it must lie in [1e-18, 1]");
        }
        if !self.offset.is_finite() || !self.scale.is_finite() {
            let value = format!("{}, {}", self.offset, self.scale);
            return bad("offset, scale", value, "both must be finite");
        }
        if self.axis == (CosineAxis::Tokens { folds: 0 }) {
            return bad("folds", "0".into(), "there must be at least one");
        }
        Ok(Cosine {
            config: self.clone(),
        })
    }
}

impl Part for CosineConfig {
    const ABOUT: &'static str = "angle between features";
    const PAPER: &'static str =
        "EVA: Fang et al., CVPR 2023, arXiv 2211.07636; MILAN: Hou et al., 2022, arXiv 2208.06049";
}

impl ObjectiveSettings for CosineConfig {
    fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.build()?))
    }
}

/// The mean of `offset - scale * cos(prediction, target)`.
///
/// `cos = <a, b> / (max(|a|, eps) * max(|b|, eps))`.
#[derive(Debug, Clone)]
pub struct Cosine {
    config: CosineConfig,
}

impl Cosine {
    /// `[total, C]` as vectors along axis 1 of the compared axis.
    fn vectors(&self, xs: &Tensor, mask: &Mask) -> Result<Tensor> {
        let CosineAxis::Tokens { folds } = self.config.axis else {
            return Ok(xs.clone());
        };
        let ((total, width), groups) = (xs.dims2()?, mask.rows() * folds);
        if mask.constant_keep().is_none() || total % groups != 0 {
            return Err(Error::shape(
                "tokens of a fold",
                format!("the same number in each of {groups} folds"),
                format!("{total} tokens"),
                "use a masker with an exact count that is a multiple of the folds",
            ));
        }
        Ok(xs.reshape((groups, total / groups, width))?)
    }

    /// Lengths of vectors along axis 1, at least `eps`.
    fn length(&self, xs: &Tensor) -> Result<Tensor> {
        // Clamp before the root, whose slope at 0 is infinite.
        let length = xs.sqr()?.sum(1)?.maximum(SMALLEST_SQUARE)?.sqrt()?;
        // Parity: in PyTorch, the floor changes only the value; the slope is that of the true length.
        let raised = (length.maximum(self.config.eps)? - &length)?.detach();
        Ok((length + raised)?)
    }
}

impl Objective for Cosine {
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        _step: &StepContext,
    ) -> Result<LossTerms> {
        let over_tokens = self.config.axis != CosineAxis::Features;
        if over_tokens && matches!(prediction.rows, Rows::ClsAndPatches | Rows::Image) {
            return Err(Error::unsupported(
                format!("a cosine over the tokens of {:?} rows", prediction.rows),
                "folds need patches",
                "use a decoder for patches, or axis = features",
            ));
        }
        let pairs = pair_values(prediction, target, mask, self.config.region)?;
        let a = self.vectors(&pairs.prediction, mask)?;
        let b = self.vectors(&pairs.target, mask)?;
        // Divide each side by its own length: the product of two small lengths is 0 in f32.
        let cosine = ((&a * &b)?.sum(1)? / self.length(&a)?)?.div(&self.length(&b)?)?;
        let loss = ((cosine.mean_all()? * -self.config.scale)? + self.config.offset)?;
        LossTerms::single("cosine", loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PatchGrid;
    use crate::objectives::testing::{
        gradient_is_the_slope, loss, noise, predicted, same_from_all_and_from_hidden,
    };
    use candle_core::{Device, Var};

    #[test]
    fn hidden_rows_alone_give_the_loss_and_gradient_of_all_patches() {
        let target = Target::patches(noise(&[2, 6, 4], 1));
        let objective = CosineConfig::default().build().unwrap();
        same_from_all_and_from_hidden(&objective, &noise(&[2, 6, 4], 2), &target);
        gradient_is_the_slope(&objective, &noise(&[2, 6, 4], 2), &target);
    }

    fn row(prediction: [f32; 2], target: [f32; 2], config: &CosineConfig) -> (f32, Vec<f32>) {
        let mask = Mask::new(PatchGrid::new(1, 1), vec![0], vec![0]).unwrap();
        let var = Var::new(&[[prediction]], &Device::Cpu).unwrap();
        let target = Target::patches(Tensor::new(&[[target]], &Device::Cpu).unwrap());
        let prediction = predicted(&var, Rows::Masked, &mask);
        let loss = loss(&config.build().unwrap(), &prediction, &target, &mask);
        let grad = loss.backward().unwrap().get(&var).unwrap().clone();
        (
            loss.to_scalar().unwrap(),
            grad.flatten_all().unwrap().to_vec1().unwrap(),
        )
    }

    #[test]
    fn known_angles_and_offsets() {
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} against {b}");
        let eva = CosineConfig::default();
        close(row([3., 0.], [5., 0.], &eva).0, -1.);
        close(row([3., 3.], [0., 2.], &eva).0, -(0.5f32.sqrt()));
        let milan = CosineConfig {
            region: Region::Masked,
            ..CosineConfig::milan()
        };
        close(row([3., 0.], [0., 2.], &milan).0, 2.);
        // Over the single token of a fold: -1 for the first feature, 0 for the second.
        close(row([3., 0.], [-2., 0.], &CosineConfig::sdae(1)).0, 1.5);
    }

    #[test]
    fn a_zero_prediction_has_a_finite_gradient() {
        let config = CosineConfig {
            eps: 1e-3,
            ..CosineConfig::default()
        };
        let (loss, grad) = row([0., 0.], [0., 2.], &config);
        assert_eq!(loss, 0.);
        assert_eq!(grad[0], 0.);
        assert!((grad[1] + 1e3).abs() < 1e-2, "{grad:?}");
    }

    #[test]
    fn refuses_uneven_folds() {
        let mask = Mask::from_bits(PatchGrid::new(1, 4), &[0, 1, 1, 1]).unwrap();
        let values = noise(&[1, 4, 2], 1);
        let target = Target::patches(values.clone());
        let prediction = predicted(&values, Rows::Patches, &mask);
        let step = StepContext::new(0);
        let run = |folds| {
            let objective = CosineConfig::sdae(folds).build().unwrap();
            objective.loss(&prediction, &target, &mask, &step)
        };
        assert!(run(3).is_ok());
        assert!(run(2).unwrap_err().to_string().contains("3 tokens"));
        assert!(CosineConfig::sdae(0).build().is_err());
    }
}
