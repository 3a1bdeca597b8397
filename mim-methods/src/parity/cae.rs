//! Golden cases of CAE.

use candle_core::{DType, Device, Tensor};
use mim_core::decoders::LatentRegressorConfig;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, StepContext, Target, View};
use mim_masking::HiddenCount;
use mim_targets::{TargetGenerator, TargetRequest};
use serde::Deserialize;

use super::beit::{hidden, traced};
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup, mae};
use crate::tokens::TokenView;
use crate::{CaeConfig, MethodConfig};

/// `regressor` or `decoder` of a case.
#[derive(Deserialize, Clone, PartialEq)]
struct Blocks {
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    layer_scale_init: Option<f64>,
}

fn regressor(case: &Case, defaults: LatentRegressorConfig) -> Result<LatentRegressorConfig> {
    let own = |depth: usize| Blocks {
        embed_dim: defaults.embed_dim,
        depth,
        num_heads: defaults.num_heads,
        layer_scale_init: None,
    };
    let regressor = case.setting_or("regressor", own(defaults.depth))?;
    let decoder = case.setting_or("decoder", own(defaults.decoder_depth))?;
    let sizes = |blocks: &Blocks| (blocks.embed_dim, blocks.num_heads);
    if sizes(&regressor) != sizes(&decoder) {
        let what = "CAE with a decoder of another width or other heads than the regressor's";
        return Err(Problem::unknown(what));
    }
    let scale = regressor.layer_scale_init.or(decoder.layer_scale_init);
    Ok(LatentRegressorConfig {
        embed_dim: regressor.embed_dim,
        depth: regressor.depth,
        decoder_depth: decoder.depth,
        num_heads: regressor.num_heads,
        mlp_ratio: case.setting_or("mlp_ratio", defaults.mlp_ratio)?,
        norm_eps: case.setting_or("norm_eps", defaults.norm_eps)?,
        layer_scale_init: scale.unwrap_or(defaults.layer_scale_init),
        drop_path_rate: 0.,
    })
}

fn config(case: &Case) -> Result<CaeConfig> {
    case.fixed("qkv_bias", "q_and_v".to_owned())?;
    let defaults = CaeConfig::default();
    let mut encoder = mae::vit(case, defaults.encoder.clone())?;
    encoder.layer_scale_init = case
        .setting("layer_scale_init")?
        .or(encoder.layer_scale_init);
    let (grid, ratio) = (encoder.grid()?, case.setting_or("mask_ratio", 0.5)?);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of the patches"
    )]
    let count = (grid.len() as f64 * ratio).round() as usize;
    let mut masker = defaults.masker.clone();
    masker.hidden = HiddenCount::Patches { count };
    Ok(CaeConfig {
        masker,
        align_loss_weight: case.setting_or("align_loss_weight", defaults.align_loss_weight)?,
        regressor: regressor(case, defaults.regressor.clone())?,
        encoder,
        ..defaults
    })
}

/// The recorded tokens of the case's images.
pub(super) struct Known(pub(super) Tensor);

impl TargetGenerator for Known {
    fn generate(&self, _rq: &TargetRequest<'_>) -> mim_core::Result<Target> {
        Ok(Target::patches(self.0.clone()))
    }
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let grid = config.encoder.grid()?;
    let mask = Mask::from_bits(grid, &case.bits("input.mask", grid)?)?;
    let tokens = case.required("input.tokens_all")?.to_dtype(DType::U32)?;
    let tokens = Known(tokens.to_device(device)?);
    let vocab_size = case.setting_or("vocab_size", 8192)?;
    let view = TokenView {
        index: 0,
        size: config.encoder.image_size.into(),
    };
    let mut method = config.compose(&config.store(device, 0), (tokens, vocab_size), view)?;
    method.override_mask(mask.clone())?;
    let images = case.required("input.image")?.to_device(device)?;
    let weight = config.align_loss_weight;
    let flat: Extract =
        Box::new(|recorded: &Recorded| Ok(recorded.get("pred.token")?.flatten(0, 1)?));
    let align: Extract =
        Box::new(move |recorded: &Recorded| Ok((recorded.get("loss.align")? * weight)?));
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "cae".to_owned())?)?,
        step: StepContext::new(0),
        batch: Batch::single(View::new(images, vec![])?),
        outputs: vec![
            ("labels", hidden("target.tokens", &mask)),
            ("encoder_visible", traced("latent")),
            ("latent_predict", traced("regressed")),
            ("latent_target", traced("target.alignment")),
            ("logits", flat),
            ("loss_ce", traced("loss.token")),
            ("loss_align_weighted", align),
        ],
    })
}
