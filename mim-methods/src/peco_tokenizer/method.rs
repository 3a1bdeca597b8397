//! Training of PeCo's tokenizer.

use std::fmt;

use candle_core::Tensor;
use mim_core::augment::ViewPlan;
use mim_core::nn::unit;
use mim_core::params::ParamStore;
use mim_core::{
    Batch, EncodeOptions, Encoder, Error, Input, LossTerms, Mask, Masking, Method, Norm,
    Reconstruction, Result, StepContext, Tokenizer,
};
use mim_targets::peco::PecoTokenizer;

use super::{NAME, PecoTokenizerConfig, PixelLoss};
use crate::tokens::{draws_no_masks, log_usage, redrawn, untrained};

/// Training of PeCo's tokenizer. Its intermediates are `latent`, `codes`, `quantized`, `reconstruction`, and the
/// losses.
pub struct PecoTraining {
    pub(super) student: ParamStore,
    pub(super) views: ViewPlan,
    pub(super) input: Input,
    pub(super) critic_norm: Norm,
    pub(super) tokenizer: PecoTokenizer,
    pub(super) critic: Option<Box<dyn Encoder>>,
    pub(super) config: PecoTokenizerConfig,
}

impl PecoTraining {
    /// The frozen network's patch tokens after each block for images in `[-1, 1]`, with gradient to the images.
    fn seen(
        &self,
        critic: &dyn Encoder,
        images: &Tensor,
        step: &StepContext,
    ) -> Result<Vec<Tensor>> {
        let unit = ((images + 1.)? * 0.5)?;
        let want = EncodeOptions {
            layers: self.config.layers.clone(),
            skip_norm: true,
            ..EncodeOptions::default()
        };
        let images = self.critic_norm.apply(&unit)?;
        let encoded = critic.encode(&images, Masking::None, &want, step)?;
        let patches = |&layer: &usize| {
            encoded.layer_patches(layer).map_err(|_| {
                let why = "the frozen network has no such block; blocks count from 0";
                Error::config(NAME, "layers", layer, why, "give existing blocks")
            })
        };
        self.config.layers.iter().map(patches).collect()
    }

    /// Mean squared difference of normalised tokens, summed over blocks.
    fn perceptual(
        &self,
        critic: &dyn Encoder,
        (images, drawn): (&Tensor, &Tensor),
        step: &StepContext,
    ) -> Result<Tensor> {
        let step = step.teacher();
        let wanted = self.seen(critic, images, &step)?;
        let quiet = StepContext {
            trace: None,
            ..step.clone()
        };
        let own = self.seen(critic, drawn, &quiet)?;
        let mut losses = Vec::with_capacity(own.len());
        for ((own, wanted), layer) in own.iter().zip(&wanted).zip(&self.config.layers) {
            step.trace(&format!("layer{layer}"), || Ok(wanted.clone()))?;
            let apart = (unit(own)? - unit(&wanted.detach())?)?;
            losses.push(apart.sqr()?.mean_all()?);
        }
        let losses = Tensor::stack(&losses, 0)?;
        step.trace("perceptual", || Ok(losses.clone()))?;
        Ok(losses.sum_all()?)
    }
}

impl Method for PecoTraining {
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
        vec![("student", &self.student)]
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        None
    }

    fn tokenizer(&self) -> Option<&dyn Tokenizer> {
        Some(&self.tokenizer)
    }

    fn notes(&self) -> Vec<String> {
        let note = self.critic.is_some().then(|| self.config.target.note());
        note.into_iter().collect()
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let images = batch.view(0)?.normalized(&self.input.norm)?;
        let coded = self.tokenizer.reconstruct(&images, step)?;
        step.trace("latent", || Ok(coded.latents.clone()))?;
        step.trace("codes", || Ok(coded.quantized.codes.clone()))?;
        step.trace("quantized", || Ok(coded.quantized.vectors.clone()))?;
        step.trace("reconstruction", || Ok(coded.images.clone()))?;
        let apart = (&coded.images - &images)?;
        let (l1, l2) = (|| apart.abs()?.mean_all(), || apart.sqr()?.mean_all());
        step.trace("loss.l1", || Ok(l1()?))?;
        step.trace("loss.l2", || Ok(l2()?))?;
        let pixel = match self.config.pixel_loss {
            PixelLoss::L1 => l1()?,
            PixelLoss::L2 => l2()?,
        };
        let mut terms = LossTerms::single("pixel", pixel)?;
        let commitment = coded.quantized.commitment;
        step.trace("loss.commitment", || Ok(commitment.clone()))?;
        terms.push("commitment", commitment, self.config.commitment_weight)?;
        match &self.critic {
            Some(critic) => {
                let loss = self.perceptual(critic, (&images, &coded.images), step)?;
                step.trace("loss.perceptual", || Ok(loss.clone()))?;
                terms.push("perceptual", loss, self.config.perceptual_weight)?;
            }
            None if self.config.perceptual_weight > 0. => return Err(untrained(NAME)),
            None => {}
        }
        log_usage(&mut terms, coded.quantized.usage)?;
        step.trace("loss", || terms.total())?;
        Ok(terms)
    }

    fn override_mask(&mut self, _mask: Mask) -> Result<()> {
        Err(draws_no_masks(NAME))
    }

    fn reconstruct(&self, batch: &Batch, step: &StepContext) -> Result<Reconstruction> {
        let images = batch.view(0)?.normalized(&self.input.norm)?;
        let coded = self.tokenizer.reconstruct(&images, step)?;
        redrawn(&self.input.norm, &images, &coded.images)
    }
}

impl fmt::Debug for PecoTraining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PecoTraining")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
