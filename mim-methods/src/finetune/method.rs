//! Training an encoder with labels.

use candle_core::Tensor;
use mim_core::augment::ViewPlan;
use mim_core::nn::{BatchNorm, LayerNorm, Linear};
use mim_core::params::{Ema, EmaTiming};
use mim_core::{
    Batch, Classifier, EncodeOptions, Encoder, Error, Input, LossTerms, Mask, Masking, Method,
    ParamStore, Pooling, Purpose, Result, StepContext, ops,
};

use super::NAME;
use super::mixing::{Mix, MixConfig, erase, mixed_targets};

/// Encoder, pooling, norm and a linear head.
pub(super) struct Network {
    pub(super) encoder: Box<dyn Encoder>,
    /// Whether the encoder runs in inference mode: a linear probe.
    pub(super) frozen: bool,
    pub(super) pooling: Pooling,
    /// The norm after the mean of the tokens, used instead of the encoder's final norm.
    pub(super) fc_norm: Option<LayerNorm>,
    /// The batch norm before the head of a linear probe.
    pub(super) head_norm: Option<BatchNorm>,
    pub(super) head: Linear,
    pub(super) classes: usize,
}

impl Network {
    /// The features `[batch, dim]` that enter the head.
    fn features(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        let of_encoder = StepContext {
            training: step.training && !self.frozen,
            ..step.clone()
        };
        let want = EncodeOptions::default();
        let encoded = self
            .encoder
            .encode(images, Masking::None, &want, &of_encoder)?;
        let pooled = self.pooling.apply(&encoded)?;
        let normed = match &self.fc_norm {
            Some(norm) => norm.forward(&pooled)?,
            None => pooled,
        };
        match &self.head_norm {
            Some(norm) => norm.forward(&normed, step),
            None => Ok(normed),
        }
    }
}

impl Classifier for Network {
    fn classes(&self) -> usize {
        self.classes
    }

    fn logits(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        self.head.forward(&self.features(images, step)?)
    }
}

/// A moving average of the weights.
pub(super) struct Average {
    pub(super) network: Network,
    pub(super) store: ParamStore,
    pub(super) ema: Ema,
}

/// Fine-tuning: all weights are trained with labels.
///
/// Its intermediates are `mixed_images`, `soft_target`, `features` and `logits`.
pub struct Finetune {
    pub(super) student: ParamStore,
    pub(super) network: Network,
    pub(super) average: Option<Average>,
    pub(super) input: Input,
    pub(super) views: ViewPlan,
    pub(super) mix: MixConfig,
    pub(super) label_smoothing: f64,
    pub(super) erasing_prob: f64,
    /// A fixed mixing instead of a random one.
    pub(super) recorded: Option<Mix>,
}

impl Finetune {
    /// Mixes all batches with `mix` and does not erase: for recorded cases.
    #[must_use]
    pub fn mixing(self, mix: Mix) -> Self {
        Self {
            recorded: Some(mix),
            ..self
        }
    }

    /// The images that enter the network, and the share of each image's own label.
    fn mixed(&self, images: &Tensor, step: &StepContext) -> Result<(Tensor, f64)> {
        if let Some(mix) = &self.recorded {
            return mix.apply(images);
        }
        let mut rng = step.rng(Purpose::Method, 0);
        let images = erase(images, self.erasing_prob, &mut rng)?;
        let (_, _, height, width) = images.dims4()?;
        self.mix.draw((height, width), &mut rng)?.apply(&images)
    }
}

impl Method for Finetune {
    fn name(&self) -> &str {
        NAME
    }

    fn views(&self, _epoch: usize) -> ViewPlan {
        self.views.clone()
    }

    fn input(&self) -> &Input {
        &self.input
    }

    fn stores(&self) -> Vec<(&str, &ParamStore)> {
        let average = self.average.iter();
        let average = average.map(|average| ("ema", &average.store));
        std::iter::once(("student", &self.student))
            .chain(average)
            .collect()
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        Some(self.encoders()[0].1)
    }

    fn encoders(&self) -> Vec<(&str, &dyn Encoder)> {
        let average = self.average.iter();
        let average = average.map(|average| ("ema", average.network.encoder.as_ref()));
        average
            .chain([("student", self.network.encoder.as_ref())])
            .collect()
    }

    fn classifier(&self) -> Option<&dyn Classifier> {
        Some(match &self.average {
            Some(average) => &average.network,
            None => &self.network,
        })
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let labels = batch.labels.as_ref().ok_or_else(|| {
            Error::unsupported(
                "fine-tuning",
                "the data set has no labels",
                "use a data set with labels, such as a folder for each class",
            )
        })?;
        let images = batch.view(0)?.normalized(&self.input.norm)?;
        let (images, lam) = self.mixed(&images, step)?;
        step.trace("mixed_images", || Ok(images.clone()))?;
        let shares = (lam, self.label_smoothing);
        let targets = mixed_targets(labels, self.network.classes, shares)?;
        step.trace("soft_target", || Ok(targets.clone()))?;
        let features = self.network.features(&images, step)?;
        step.trace("features", || Ok(features.clone()))?;
        let logits = self.network.head.forward(&features)?;
        step.trace("logits", || Ok(logits.clone()))?;
        let losses = ops::soft_cross_entropy(&logits, &targets, 1.)?;
        let terms = LossTerms::single("cross_entropy", losses.mean_all()?)?;
        step.trace("loss", || terms.total())?;
        Ok(terms)
    }

    fn after_step(&self, step: &StepContext) -> Result<()> {
        match &self.average {
            Some(average) => average.ema.update(EmaTiming::AfterStep, step),
            None => Ok(()),
        }
    }

    fn override_mask(&mut self, _mask: Mask) -> Result<()> {
        Err(crate::tokens::draws_no_masks(NAME))
    }
}

impl std::fmt::Debug for Finetune {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finetune")
            .field("classes", &self.network.classes)
            .field("pooling", &self.network.pooling)
            .finish_non_exhaustive()
    }
}
