//! What a composed method predicts.

use candle_core::Device;
use mim_core::encoders::EncoderConfig;
use mim_core::objectives::{CosineConfig, CrossEntropyConfig, ObjectiveConfig, RegressionConfig};
use mim_core::ops::PatchOrder;
use mim_core::params::{Ema, ParamStore, Start, When};
use mim_core::schedule::Schedule;
use mim_core::weights::{Source, WeightMap};
use mim_core::{Error, Norm, Result};
use mim_targets::dvae::{DvaeConfig, DvaeEncoder};
use mim_targets::{
    FeatureTarget, FeatureTargetConfig, HogOrder, HogTargetConfig, PixelTargetConfig,
    TargetGenerator, TokenTarget,
};
use serde::{Deserialize, Serialize};

use crate::FrozenConfig;

/// A target by its `type`: `pixel`, `hog`, `features`, `momentum` or `tokens`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CustomTarget {
    /// Pixels; the image's normalisation is the method's.
    Pixel(PixelTargetConfig),
    /// Histograms of oriented gradients; the image's normalisation is the method's.
    Hog(HogTargetConfig),
    /// Features of a frozen network, whose attention can guide the masker.
    Features(Box<FrozenConfig>),
    /// Features of a momentum copy of the encoder, whose attention can guide the masker.
    Momentum(MomentumConfig),
    /// Tokens of DALL-E's discrete VAE.
    Tokens(TokensConfig),
}

/// Settings of a momentum copy as target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MomentumConfig {
    /// Share of the copy that each step keeps. Default 0.996.
    pub momentum: f64,
    /// Epsilon of the layer norm without weights on each token. Default 1e-6.
    pub layer_norm_eps: f64,
}

impl Default for MomentumConfig {
    fn default() -> Self {
        Self {
            momentum: 0.996,
            layer_norm_eps: 1e-6,
        }
    }
}

/// Settings of tokens as target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    /// A weights file of the encoder, perhaps on the Hugging Face Hub (`hf:owner/name[@revision][/file]`), or
    /// `random`. There is no default.
    pub checkpoint: String,
    /// Whose names the file has: `dvae` or `flava_codebook`. Default `flava_codebook`.
    pub source: String,
    /// Which view of the batch becomes tokens, 8 pixels each. Default 1.
    pub view: usize,
    /// The network. Default as released.
    pub network: DvaeConfig,
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self {
            checkpoint: String::new(),
            source: "flava_codebook".to_owned(),
            view: 1,
            network: DvaeConfig::default(),
        }
    }
}

impl TokensConfig {
    fn build(&self, device: &Device) -> Result<TokenTarget> {
        let random = self.checkpoint == "random";
        if self.checkpoint.is_empty() {
            return Err(Error::config(
                "target",
                "checkpoint",
                "not set",
                "tokens come from a discrete VAE trained elsewhere: facebook/flava-image-codebook on the \
                 Hugging Face Hub (BSD-3 licence) has the encoder of DALL-E",
                "set target.checkpoint to its weights as .safetensors or hf:owner/name, or to \"random\" \
                 for tokens without meaning",
            ));
        }
        let init = mim_core::params::Init::Mae.build(3);
        let store = ParamStore::with_frozen(device, 0, init, |_| true);
        let encoder = DvaeEncoder::new(&store.root().pp("encoder"), &self.network)?;
        if !random {
            let weights = WeightMap::read(&self.checkpoint)?;
            store.load(&Source::named(&self.source)?.import(&weights)?)?;
        }
        Ok(TokenTarget::new(encoder, self.view))
    }
}

/// A target made ready.
pub(super) struct Built {
    pub(super) generator: Box<dyn TargetGenerator>,
    /// Values of a token of the encoder's output.
    pub(super) values: usize,
    /// If they are cells: their order and their channels.
    pub(super) cells: Option<(PatchOrder, usize)>,
    pub(super) teacher: Option<(ParamStore, Ema)>,
    /// Who teaches, if it is no part of the method.
    pub(super) note: Option<String>,
}

impl Built {
    fn new(generator: Box<dyn TargetGenerator>, values: usize) -> Self {
        Self {
            generator,
            values,
            cells: None,
            teacher: None,
            note: None,
        }
    }
}

fn features(
    frozen: &FrozenConfig,
    student: &ParamStore,
    norm: &Norm,
    attention: bool,
) -> Result<Built> {
    let teacher = frozen.open(student.device())?;
    let values = teacher.dim();
    let config = FeatureTargetConfig {
        attention,
        ..frozen.features(norm)
    };
    let generator = Box::new(FeatureTarget::new(teacher, config)?);
    Ok(Built {
        note: Some(frozen.note()),
        ..Built::new(generator, values)
    })
}

fn momentum(
    config: &MomentumConfig,
    (student, encoder): (&ParamStore, &EncoderConfig),
    norm: &Norm,
    attention: bool,
) -> Result<Built> {
    let store = ParamStore::teacher(student.device());
    let copy = encoder.build(&store.root())?;
    let momentum = Schedule::constant(config.momentum);
    let ema = Ema::new(student, &store, momentum, When::AfterStep, Start::Copy)?;
    let features = FeatureTargetConfig {
        norm: norm.clone(),
        layer_norm_eps: Some(config.layer_norm_eps),
        attention,
        ..FeatureTargetConfig::default()
    };
    let generator = Box::new(FeatureTarget::new(copy, features)?);
    Ok(Built {
        teacher: Some((store, ema)),
        ..Built::new(generator, encoder.dim())
    })
}

impl CustomTarget {
    /// The loss that suits the target.
    pub(super) fn objective(&self) -> ObjectiveConfig {
        match self {
            Self::Pixel(_) | Self::Hog(_) => {
                ObjectiveConfig::Regression(RegressionConfig::default())
            }
            Self::Momentum(_) => ObjectiveConfig::Regression(RegressionConfig::smooth_l1(2.)),
            Self::Features(_) => ObjectiveConfig::Cosine(CosineConfig {
                offset: 1.,
                ..CosineConfig::default()
            }),
            Self::Tokens(_) => ObjectiveConfig::CrossEntropy(CrossEntropyConfig::default()),
        }
    }

    /// The generator; `attention` says whether the masker is guided by a teacher.
    pub(super) fn build(
        &self,
        student: &ParamStore,
        encoder: &EncoderConfig,
        norm: &Norm,
        attention: bool,
    ) -> Result<Built> {
        let (stride, channels) = (encoder.output_stride(), encoder.in_channels());
        Ok(match self {
            Self::Pixel(config) => {
                let target = PixelTargetConfig {
                    norm: norm.clone(),
                    ..config.clone()
                };
                Built {
                    cells: Some((config.order, channels)),
                    ..Built::new(Box::new(target.build()?), stride * stride * channels)
                }
            }
            Self::Hog(config) => {
                let target = HogTargetConfig {
                    norm: norm.clone(),
                    ..config.clone()
                };
                let order = match config.order {
                    HogOrder::ChannelsBinsCells => PatchOrder::ChannelsThenPixels,
                    HogOrder::CellsBinsChannels => PatchOrder::PixelsThenChannels,
                };
                let values = config.values(stride, channels);
                Built {
                    cells: Some((order, channels * config.bins)),
                    ..Built::new(Box::new(target.build()?), values)
                }
            }
            Self::Features(frozen) => features(frozen, student, norm, attention)?,
            Self::Momentum(config) => momentum(config, (student, encoder), norm, attention)?,
            Self::Tokens(config) => {
                let target = config.build(student.device())?;
                let note = format!("tokens by the discrete VAE `{}`", config.checkpoint);
                Built {
                    note: Some(note),
                    ..Built::new(Box::new(target), config.network.vocab_size)
                }
            }
        })
    }
}
