//! Golden cases of VQ-KD: the tokenizer within a case of BEiT v2.

use candle_core::{Device, Tensor};
use mim_core::encoders::VitConfig;
use mim_core::nn::CodebookConfig;
use mim_core::weights::Source;
use mim_core::{Batch, StepContext, Target, View};
use mim_targets::vqkd::VqKdTokenizerConfig;
use mim_targets::{TargetGenerator, TargetRequest};
use serde::Deserialize;

use super::beit::traced;
use super::mae::vit;
use super::{Case, Problem, Result, Rounding, Setup};
use crate::{MethodConfig, VqKdConfig, VqKdDecoderConfig};

/// `codebook_ema` of a case.
#[derive(Deserialize)]
pub(super) struct CodebookEma {
    pub(super) momentum: f64,
    pub(super) eps: Option<f64>,
}

/// The tokenizer's settings in `vqkd` of a case of BEiT v2.
#[derive(Deserialize)]
pub(super) struct Sizes {
    pub(super) embed_dim: usize,
    pub(super) depth: usize,
    pub(super) num_heads: usize,
    pub(super) code_dim: usize,
    pub(super) n_embed: usize,
}

impl Sizes {
    /// The tokenizer beside a student of these settings.
    pub(super) fn tokenizer(&self, case: &Case) -> Result<VqKdTokenizerConfig> {
        let size = VitConfig {
            image_size: case.setting_or("image_size", 224.into())?,
            patch_size: case.setting_or("patch_size", 16)?,
            in_channels: case.setting_or("in_channels", 3)?,
            mlp_ratio: case.setting_or("mlp_ratio", 4.)?,
            norm_eps: case.setting_or("norm_eps", 1e-6)?,
            embed_dim: self.embed_dim,
            depth: self.depth,
            num_heads: self.num_heads,
            ..VitConfig::default()
        };
        Ok(VqKdTokenizerConfig {
            encoder: VqKdTokenizerConfig::vit(size),
            codebook: CodebookConfig {
                size: self.n_embed,
                dim: self.code_dim,
                ..CodebookConfig::default()
            },
        })
    }
}

/// Recorded features in a teacher's place.
struct Given(Tensor);

impl TargetGenerator for Given {
    fn generate(&self, _rq: &TargetRequest<'_>) -> mim_core::Result<Target> {
        Ok(Target::patches(self.0.clone()))
    }
}

fn config(case: &Case) -> Result<VqKdConfig> {
    let defaults = VqKdConfig::default();
    // It is [-1, 1] for our method always; the decay stands in `codebook_ema`, too.
    case.informs(&["input_norm", "teacher_dim"]);
    case.fixed("qkv_bias", "q_and_v".to_owned())?;
    let ema: Option<CodebookEma> = case.setting("codebook_ema")?;
    let decay = ema.map_or(defaults.codebook.decay, |ema| ema.momentum);
    case.fixed("decay", decay)?;
    let encoder = VqKdTokenizerConfig::vit(vit(case, defaults.encoder)?);
    Ok(VqKdConfig {
        commitment_weight: case.setting_or("beta", 1.)?,
        codebook: CodebookConfig {
            size: case.setting_or("n_embed", defaults.codebook.size)?,
            dim: case.setting_or("code_dim", defaults.codebook.dim)?,
            decay,
            ..defaults.codebook
        },
        decoder: VqKdDecoderConfig {
            embed_dim: encoder.embed_dim,
            num_heads: encoder.num_heads,
            depth: case.setting_or("decoder_depth", defaults.decoder.depth)?,
        },
        encoder,
        ..VqKdConfig::default()
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let features = case.required("input.teacher_features")?.to_device(device)?;
    let values = features.dim(2)?;
    let target = Some((
        Box::new(Given(features)) as Box<dyn TargetGenerator>,
        values,
    ));
    let images = case.required("input.tokenizer_image01")?;
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(config.compose(&config.store(device, 0), target)?),
        source: Source::named("vqkd")?,
        step: StepContext::new(0),
        batch: Batch::single(View::of_unit(images.to_device(device)?, vec![])?),
        outputs: vec![
            ("tokens", traced("codes")),
            ("pre_quant", traced("pre_quant")),
            ("reconstruction", traced("reconstruction")),
            ("quant_loss", traced("loss.commitment")),
            ("rec_loss", traced("loss.reconstruction")),
        ],
    })
}

/// The error of a case without a setting that has no default.
pub(super) fn no_setting(name: &str) -> Problem {
    Problem::unknown(format!("a case without the setting `{name}`"))
}
