//! The discrete VAE of DALL-E: Zero-Shot Text-to-Image Generation (Ramesh et al., ICML 2021, arXiv 2102.12092), the
//! tokenizer of BEiT. Training follows the paper's text (section 2.1, appendix A): its training code was not released.
//!
//! Each cell of an image becomes one of many tokens by a Gumbel softmax, whose temperature falls. A decoder predicts
//! the distribution of pixels, and a KL term keeps the choice of tokens close to uniform.

mod annealed;

use candle_core::{D, Tensor};
use mim_core::augment::{RandomResizedCrop, ViewPlan};
use mim_core::nn::CodeUsage;
use mim_core::ops::{softmax, upload};
use mim_core::params::{ConvInit, InitScheme, ParamStore};
use mim_core::{
    Batch, Encoder, Error, ImageSize, Input, LossTerms, Mask, Method, Norm, Purpose,
    Reconstruction, Result, StepContext, Tokenizer,
};
use mim_targets::dvae::{DvaeConfig, DvaeDecoder, DvaeEncoder, map_pixels};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::MethodConfig;
use crate::registry::Entry;
use crate::tokens::{draws_no_masks, log_usage, redrawn};
pub use annealed::Annealed;

const NAME: &str = "dvae";

/// Settings of the discrete VAE; `Default` is the paper's: 8192 tokens, 32x32 of 256 pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DvaeTrainingConfig {
    /// Height and width of the images in pixels, multiples of 8. Default 256.
    pub image_size: ImageSize,
    /// Temperature of the Gumbel softmax. Default: from 1 to 1/16 in the first 150,000 of 3,000,000 steps.
    pub temperature: Annealed,
    /// Weight of the divergence from a uniform choice of tokens; both losses are sums over an image divided by its
    /// number of values. Default: from 0 to 6.6 in the first 5,000 of 3,000,000 steps.
    pub kl_weight: Annealed,
    /// Augmentation. Default: random crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// Encoder and decoder.
    pub network: DvaeConfig,
}

impl Default for DvaeTrainingConfig {
    fn default() -> Self {
        Self {
            image_size: 256.into(),
            temperature: Annealed {
                from: 1.,
                to: 1. / 16.,
                share: 0.05,
            },
            kl_weight: Annealed {
                from: 0.,
                to: 6.6,
                share: 1. / 600.,
            },
            views: None,
            network: DvaeConfig::default(),
        }
    }
}

impl MethodConfig for DvaeTrainingConfig {
    type Method = DvaeTraining;

    fn arch(arch: &str) -> Result<Self> {
        let (why, fix) = (
            "this method has only one size",
            "set network.n_hid and .decoder_n_hid",
        );
        Err(Error::config(NAME, "arch", arch, why, fix))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        Box::new(ConvInit)
    }

    fn build(&self, student: &ParamStore) -> Result<DvaeTraining> {
        self.network.validate()?;
        self.temperature.check("temperature", f64::MIN_POSITIVE)?;
        self.kl_weight.check("kl_weight", 0.)?;
        let ImageSize { height, width } = self.image_size;
        let side = DvaeConfig::STRIDE;
        if height % side != 0 || width % side != 0 || height * width == 0 {
            let why = format!("a token covers {side}x{side} pixels");
            let fix = format!("make both sides multiples of {side}");
            return Err(Error::config(
                NAME,
                "image_size",
                format!("{height}x{width}"),
                why,
                fix,
            ));
        }
        let crop = RandomResizedCrop {
            size: (height, width).into(),
            ..RandomResizedCrop::default()
        };
        let plan = self.views.clone();
        let plan = plan.unwrap_or_else(|| ViewPlan::crop_and_flip(crop));
        let (root, channels) = (student.root(), self.network.in_channels);
        Ok(DvaeTraining {
            student: student.clone(),
            encoder: DvaeEncoder::new(&root.pp("encoder"), &self.network)?,
            decoder: DvaeDecoder::new(&root.pp("decoder"), &self.network)?,
            views: plan.with_channels(channels),
            input: Input {
                size: self.image_size,
                norm: Norm::uniform(0., 1., channels),
            },
            config: self.clone(),
        })
    }
}

/// Training of the discrete VAE.
#[derive(Debug)]
pub struct DvaeTraining {
    student: ParamStore,
    encoder: DvaeEncoder,
    decoder: DvaeDecoder,
    views: ViewPlan,
    input: Input,
    config: DvaeTrainingConfig,
}

impl DvaeTraining {
    /// Token probabilities: the softmax of the logits, in training with Gumbel noise, at the current temperature.
    fn sample(&self, logits: &Tensor, step: &StepContext) -> Result<Tensor> {
        let mut logits = logits.clone();
        if step.training {
            let mut rng = step.rng(Purpose::Method, 0);
            // Both ends are excluded, so both logarithms are finite.
            let noise: Vec<f32> = (0..logits.elem_count())
                .map(|_| rng.random_range(1e-7f32..1. - 1e-7))
                .map(|u| -(-u.ln()).ln())
                .collect();
            logits = (&logits + upload(noise, logits.shape(), logits.device())?)?;
        }
        Ok(softmax(&(logits / self.config.temperature.at(step))?)?)
    }
}

/// Mean negative log-likelihood of mapped pixels `[batch, height, width, channels]` under a logit-Laplace distribution,
/// whose locations and log-scales are `statistics` `[batch, height, width, 2 * channels]`.
fn logit_laplace(pixels: &Tensor, statistics: &Tensor) -> Result<Tensor> {
    let channels = pixels.dim(D::Minus1)?;
    let location = statistics.narrow(3, 0, channels)?;
    let log_scale = statistics.narrow(3, channels, channels)?;
    let (log, log_rest) = (pixels.log()?, pixels.affine(-1., 1.)?.log()?);
    let apart = ((&log - &log_rest)? - location)?.abs()?;
    let scaled = (apart * log_scale.neg()?.exp()?)?;
    let density = (((scaled + log_scale)? + log)? + log_rest)?;
    Ok((density.mean_all()? + std::f64::consts::LN_2)?)
}

/// The divergence of softmax(`logits`) from a uniform distribution, averaged over all cells.
fn divergence(logits: &Tensor) -> Result<Tensor> {
    let tokens = logits.dim(D::Minus1)?;
    let shares = softmax(logits)?;
    let peak = logits.detach().max_keepdim(D::Minus1)?;
    let centred = logits.broadcast_sub(&peak)?;
    let log_sum = centred.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let logs = centred.broadcast_sub(&log_sum)?;
    let negentropy = (shares * logs)?.sum(D::Minus1)?.mean_all()?;
    Ok((negentropy + (tokens as f64).ln())?)
}

impl Method for DvaeTraining {
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
        Some(&self.encoder)
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let images = batch.view(0)?.unit()?;
        let logits = self.encoder.relaxed_logits(&images, step)?;
        let shares = self.sample(&logits, step)?;
        let statistics = self.decoder.relaxed(&shares)?;
        let pixels = map_pixels(&images)?.permute((0, 2, 3, 1))?.contiguous()?;
        let pixel = logit_laplace(&pixels, &statistics)?;
        // Summed over the cells of an image and divided by its number of values, like the pixel loss.
        let values = DvaeConfig::STRIDE * DvaeConfig::STRIDE * self.config.network.in_channels;
        let kl = (divergence(&logits)? / values as f64)?;
        let codes = logits.detach().argmax(D::Minus1)?.flatten_all()?;
        let usage = CodeUsage::of_codes(&codes, self.config.network.vocab_size, step)?;
        let mut terms = LossTerms::single("pixel", pixel)?;
        terms.push("kl", kl, self.config.kl_weight.at(step))?;
        log_usage(&mut terms, usage)?;
        Ok(terms)
    }

    fn override_mask(&mut self, _mask: Mask) -> Result<()> {
        Err(draws_no_masks(NAME))
    }

    fn reconstruct(&self, batch: &Batch, step: &StepContext) -> Result<Reconstruction> {
        let images = batch.view(0)?.unit()?;
        let tokens = self.encoder.tokens(&images, step)?;
        redrawn(&self.input.norm, &images, &self.decoder.images(&tokens)?)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Zero-Shot Text-to-Image Generation: the discrete VAE",
    paper: "Ramesh et al., ICML 2021, arXiv 2102.12092",
    reference: "openai/DALL-E for the networks; no training code was released",
    about: crate::registry::About {
        hidden: "nothing",
        predicted: "pixels, from tokens with Gumbel noise",
        by: "a convolutional decoder",
        loss: "logit-Laplace likelihood and divergence from uniform tokens",
        choose: "Trains a DALL-E style tokenizer on your images.",
    },
    status: "networks exact: logits, tokens, reconstruction; training by the paper's text",
    recipes: recipes!("dvae_32px", "dvae_base"),
    ..Entry::new::<DvaeTrainingConfig>("dvae")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn densities_integrate_to_one_and_uniform_choices_cost_nothing() {
        // The density over (0, 1) in steps of a thousandth, at one location and scale.
        let count = 100_000;
        let grid: Vec<f32> = (0..count)
            .map(|i| (i as f32 + 0.5) / count as f32)
            .collect();
        let mass: f64 = grid
            .iter()
            .map(|&x| {
                let pixel = Tensor::new(&[[[[x]]]], &Device::Cpu).unwrap();
                let statistics = Tensor::new(&[[[[0.3f32, -0.7]]]], &Device::Cpu).unwrap();
                let cost = logit_laplace(&pixel, &statistics).unwrap();
                f64::from((-cost.to_scalar::<f32>().unwrap()).exp()) / f64::from(count)
            })
            .sum();
        assert!((mass - 1.).abs() < 1e-2, "{mass}");
        let cost = |logits: [f32; 4]| -> f32 {
            let logits = Tensor::new(&[[[logits]]], &Device::Cpu).unwrap();
            divergence(&logits).unwrap().to_scalar().unwrap()
        };
        assert!(cost([3.; 4]).abs() < 1e-6);
        assert!((cost([99., 0., 0., 0.]) - 4f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn invalid_settings_are_named() {
        let build = |change: fn(&mut DvaeTrainingConfig)| {
            let mut config = DvaeTrainingConfig::default();
            (config.network.n_hid, config.network.decoder_n_hid) = (4, 4);
            config.network.vocab_size = 5;
            change(&mut config);
            let built = config.build(&config.store(&Device::Cpu, 0));
            built.map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(build(|_| {}), Ok(()));
        for (change, part) in [
            (
                (|c| c.image_size = 20.into()) as fn(&mut DvaeTrainingConfig),
                "multiples of 8",
            ),
            (|c| c.temperature.to = 0., "`temperature` is 0"),
            (|c| c.kl_weight.share = 2., "`kl_weight` is 2"),
        ] {
            let error = build(change).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
