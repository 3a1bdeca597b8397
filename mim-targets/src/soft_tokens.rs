//! Token probabilities as targets, mixed among similar patches.

use candle_core::Tensor;
use mim_core::nn::unit;
use mim_core::schedule::Schedule;
use mim_core::{Error, PatchGrid, Result, Rows, StepContext, Target, Tokenizer, needs_logits, ops};
use serde::{Deserialize, Serialize};

use crate::target_generator::view_size;
use crate::tokens::frozen;
use crate::{TargetGenerator, TargetRequest, TargetStage, TokenTarget};

const NAME: &str = "soft labels";

/// Settings of [`SoftTokenTarget`]; `Default` is mc-BEiT's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftLabelsConfig {
    /// Temperature of the tokenizer's logits. Default 4.
    pub temperature: Schedule,
    /// Share of the target that comes from patches that are similar in the student, in `[0, 1]`. Default 0.2.
    pub omega: f64,
    /// Temperature of the cosines between student features. Default 1.
    pub similarity_temperature: f64,
    /// Whether to block gradients through the similarity. Default false.
    // Parity: the release also differentiates the target.
    pub detach: bool,
}

impl Default for SoftLabelsConfig {
    fn default() -> Self {
        Self {
            temperature: Schedule::constant(4.),
            omega: 0.2,
            similarity_temperature: 1.,
            detach: false,
        }
    }
}

impl SoftLabelsConfig {
    /// Checks ranges.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        self.temperature.validate()?;
        let bad = |field: &'static str, value: f64, why: &'static str, fix: &'static str| {
            Err(Error::config(NAME, field, value, why, fix))
        };
        if !(0. ..=1.).contains(&self.omega) {
            return bad("omega", self.omega, "it must be in [0, 1]", "use 0.2");
        }
        let temperature = self.similarity_temperature;
        if !temperature.is_finite() || temperature <= 0. {
            let why = "cosines are divided by it, so it must be positive";
            return bad("similarity_temperature", temperature, why, "use 1");
        }
        Ok(())
    }
}

/// Token probabilities, mixed among similar patches (mc-BEiT: Li et al., ECCV 2022).
///
/// The target is `omega W p + (1 - omega) p`: the tokenizer's probabilities `p` of each patch, mixed with those of
/// patches in the same image that have similar student features, `W = softmax(cos / t)`.
///
/// Gradients flow through `W` unless `detach` is set.
pub struct SoftTokenTarget {
    tokenizer: Box<dyn Tokenizer>,
    view: usize,
    config: SoftLabelsConfig,
}

impl SoftTokenTarget {
    /// Probabilities of `tokenizer` for view `view` of the batch.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid, [`Error::Unsupported`] if the tokenizer gives no logits.
    pub fn new(
        tokenizer: impl Tokenizer + 'static,
        view: usize,
        config: SoftLabelsConfig,
    ) -> Result<Self> {
        config.validate()?;
        needs_logits(&tokenizer)?;
        Ok(Self {
            tokenizer: Box::new(tokenizer),
            view,
            config,
        })
    }

    /// `[images, patches, vocab_size]`; rows sum to 1.
    fn probabilities(&self, rq: &TargetRequest<'_>) -> Result<Tensor> {
        let view = rq.batch.view(self.view)?;
        TokenTarget::check_view(&self.tokenizer, rq.grid, view.size())?;
        let logits = self.tokenizer.logits(&view.unit()?, &frozen(rq.step))?;
        rq.step.trace("token_logits", || Ok(logits.clone()))?;
        let logits = (logits.flatten(1, 2)?.detach() / self.config.temperature.at(rq.step))?;
        Ok(ops::softmax(&logits)?)
    }

    /// Similarity of each of `rows` `[images, some, dim]` to each of `all` `[images, patches, dim]`.
    fn similarity(&self, rows: &Tensor, all: &Tensor) -> Result<Tensor> {
        let others = unit(all)?.transpose(1, 2)?.contiguous()?;
        let cosines = unit(rows)?.contiguous()?.matmul(&others)?;
        Ok(ops::softmax(
            &(cosines / self.config.similarity_temperature)?,
        )?)
    }

    fn mixed(&self, weights: &Tensor, all: &Tensor, own: &Tensor) -> Result<Tensor> {
        let omega = self.config.omega;
        Ok(((weights.matmul(all)? * omega)? + (own * (1. - omega))?)?)
    }

    /// The target of all patches.
    fn whole(&self, features: &Tensor, all: &Tensor, step: &StepContext) -> Result<Target> {
        let weights = self.similarity(features, features)?;
        step.trace("similarity", || Ok(weights.clone()))?;
        Ok(Target::patches(self.mixed(&weights, all, all)?))
    }
}

impl TargetGenerator for SoftTokenTarget {
    fn stage(&self) -> TargetStage {
        TargetStage::Student
    }

    fn check(&self, grid: PatchGrid, views: &[(usize, usize)]) -> Result<()> {
        TokenTarget::check_view(&self.tokenizer, grid, view_size(views, self.view)?)
    }

    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let (Some(student), Some(mask)) = (rq.student, rq.mask) else {
            return Err(Error::unsupported(
                "soft labels without a student",
                "they are mixed by the similarity of student features",
                "use them in a method with an encoder and a mask",
            ));
        };
        let probabilities = self.probabilities(rq)?;
        rq.step.trace("token_probs", || Ok(probabilities.clone()))?;
        let mut features = student.patches()?;
        if self.config.detach {
            features = features.detach();
        }
        let (images, patches, _) = probabilities.dims3()?;
        let (rows, tokens, _) = features.dims3()?;
        if (rows, tokens) != (images, patches) {
            return Err(Error::unsupported(
                format!("soft labels from a student with {tokens} tokens in each of {rows} rows"),
                format!("they compare all {patches} patches of each of {images} images"),
                "replace hidden patches (masking = \"replace\"), with one mask per image",
            ));
        }
        if rq.step.trace.is_some() || mask.constant_keep().is_none() || mask.rows() != images {
            return self.whole(&features, &probabilities, rq.step);
        }
        // Only hidden patches are predicted, so only their rows are computed.
        let ids = mask.flat(true, images, features.device())?;
        let pick = |xs: &Tensor| -> Result<Tensor> {
            let rows = ops::gather_rows(&xs.flatten(0, 1)?, &ids)?;
            Ok(rows.reshape((images, (), xs.dim(2)?))?)
        };
        let (hidden, own) = (pick(&features)?, pick(&probabilities)?);
        let weights = self.similarity(&hidden, &features)?;
        Ok(Target {
            rows: Rows::Masked,
            ..Target::patches(self.mixed(&weights, &probabilities, &own)?)
        })
    }
}

impl std::fmt::Debug for SoftTokenTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftTokenTarget")
            .field("view", &self.view)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device, Var};
    use mim_core::{Batch, Encoded, ImageSize, Mask, View};
    use std::sync::Arc;

    /// Logits that depend on the brightness of the patch.
    struct Brightness;

    impl Tokenizer for Brightness {
        fn vocab_size(&self) -> usize {
            3
        }

        fn stride(&self) -> usize {
            2
        }

        fn channels(&self) -> usize {
            1
        }

        fn image_size(&self) -> Option<ImageSize> {
            None
        }

        fn tokens(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
            Ok(self.logits(images, step)?.argmax(D::Minus1)?)
        }

        fn has_logits(&self) -> bool {
            true
        }

        fn logits(&self, images: &Tensor, _step: &StepContext) -> Result<Tensor> {
            let means = images.avg_pool2d(2)?.permute((0, 2, 3, 1))?;
            Ok(Tensor::cat(&[&(&means * 9.)?, &means, &means.neg()?], 3)?)
        }
    }

    fn setting(omega: f64, detach: bool) -> SoftTokenTarget {
        let config = SoftLabelsConfig {
            omega,
            detach,
            ..SoftLabelsConfig::default()
        };
        SoftTokenTarget::new(Brightness, 0, config).unwrap()
    }

    /// The target of two images of 2x2 patches under a mask, with the features it depends on.
    fn generate(target: &SoftTokenTarget, bits: &[u8], traced: bool) -> (Target, Var, Mask) {
        struct Nothing;
        impl mim_core::TraceSink for Nothing {
            fn record(&self, _name: &str, _value: &Tensor) -> Result<()> {
                Ok(())
            }
        }
        let device = &Device::Cpu;
        let pixels: Vec<f32> = (0..32).map(|i| (i * 7 % 32) as f32 / 31.).collect();
        let pixels = Tensor::from_vec(pixels, (2, 1, 4, 4), device).unwrap();
        let batch = Batch::single(View::of_unit(pixels, vec![]).unwrap());
        let features: Vec<f32> = (0..24).map(|i| ((i * 5) as f32).sin()).collect();
        let features = Var::from_vec(features, (2, 4, 3), device).unwrap();
        let grid = PatchGrid::new(2, 2);
        let mask = Mask::from_bits(grid, bits).unwrap();
        let encoded = Encoded {
            tokens: features.as_tensor().clone(),
            prefix: 0,
            layers: vec![],
            cls_attention: None,
            grid,
        };
        let step = StepContext {
            trace: traced.then(|| Arc::new(Nothing) as Arc<dyn mim_core::TraceSink>),
            ..StepContext::new(0)
        };
        let made = target.generate(&TargetRequest {
            batch: &batch,
            grid,
            mask: Some(&mask),
            student: Some(&encoded),
            step: &step,
        });
        (made.unwrap(), features, mask)
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn hidden_rows_alone_match_all_rows_and_sum_to_one() {
        let target = setting(0.5, false);
        let bits = [1, 0, 0, 1, 0, 1, 1, 0];
        let (hidden, _, mask) = generate(&target, &bits, false);
        let (all, ..) = generate(&target, &bits, true);
        assert_eq!((hidden.rows, all.rows), (Rows::Masked, Rows::Patches));
        let picked = all.aligned(Rows::Masked, &mask).unwrap();
        let own = hidden.aligned(Rows::Masked, &mask).unwrap();
        for (a, b) in values(&picked).iter().zip(values(&own)) {
            assert!((a - b).abs() < 1e-6);
        }
        for sum in values(&own.sum(1).unwrap()) {
            assert!((sum - 1.).abs() < 1e-5);
        }
        // A varying number of hidden patches.
        let (varying, ..) = generate(&target, &[1, 0, 0, 0, 0, 1, 1, 0], false);
        assert_eq!(varying.rows, Rows::Patches);
    }

    #[test]
    fn gradients_flow_through_the_similarity_unless_it_is_detached() {
        let bits = [1, 0, 0, 1, 0, 1, 1, 0];
        let reaches = |omega, detach| {
            let (made, features, _) = generate(&setting(omega, detach), &bits, false);
            let loss = made.patches.sqr().unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            grads
                .get(&features)
                .is_some_and(|grad| values(grad).iter().any(|g| g.abs() > 1e-6))
        };
        assert!(reaches(0.5, false) && !reaches(0.5, true) && !reaches(0., false));
    }

    #[test]
    fn invalid_settings_are_named() {
        let built = |config| SoftTokenTarget::new(Brightness, 0, config).unwrap_err();
        let omega = SoftLabelsConfig {
            omega: 1.5,
            ..SoftLabelsConfig::default()
        };
        assert!(built(omega).to_string().contains("`omega` is 1.5"));
        let cold = SoftLabelsConfig {
            similarity_temperature: 0.,
            ..SoftLabelsConfig::default()
        };
        assert!(built(cold).to_string().contains("similarity_temperature"));
    }
}
