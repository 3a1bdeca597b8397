//! Golden cases of MILAN.

use candle_core::{D, DType, Device, Tensor};
use mim_core::decoders::MaeDecoderConfig;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::Activation;
use mim_core::weights::Source;
use mim_core::{Batch, Encoder, Mask, Method, ParamStore, StepContext, View};
use mim_masking::{RandomMaskerConfig, WeightedMaskerConfig};
use serde::Deserialize;

use super::mae::vit;
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{MethodConfig, MilanConfig, MilanTarget};

#[derive(Deserialize)]
struct Decoder {
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    mlp_ratio: Option<f64>,
}

/// `clip` of a case.
#[derive(Deserialize)]
struct Clip {
    width: usize,
    layers: usize,
    heads: usize,
    output_dim: usize,
    patch_size: usize,
    norm_eps: f64,
    mlp_ratio: f64,
    activation: Activation,
}

/// The tower of a case with its recorded weights.
fn teacher(case: &Case, device: &Device) -> Result<Box<dyn Encoder>> {
    let clip: Clip = case.setting("clip")?.ok_or_else(|| no_setting("clip"))?;
    let config = VitConfig {
        image_size: case.setting_or("image_size", 224.into())?,
        in_channels: case.setting_or("in_channels", 3)?,
        patch_size: clip.patch_size,
        embed_dim: clip.width,
        depth: clip.layers,
        num_heads: clip.heads,
        mlp_ratio: clip.mlp_ratio,
        norm_eps: clip.norm_eps,
        activation: clip.activation,
        projection_dim: Some(clip.output_dim),
        ..VitConfig::clip_base()
    };
    let store = ParamStore::teacher(device);
    let tower = Vit::new(&store.root(), &config)?;
    store.load(&Source::named("openai_clip")?.import(&case.group("teacher."))?)?;
    Ok(Box::new(tower))
}

fn no_setting(name: &str) -> Problem {
    Problem::unknown(format!("a case without the setting `{name}`"))
}

fn config(case: &Case) -> Result<MilanConfig> {
    // Each target has a setting that the other does not use.
    case.informs(&["norm_pix_loss", "clip"]);
    let defaults = MilanConfig::default();
    if !case.setting_or("qkv_bias", true)? {
        return Err(Problem::unknown("MILAN without biases".to_owned()));
    }
    let encoder = vit(case, defaults.encoder)?;
    let decoder: Decoder = case
        .setting("decoder")?
        .ok_or_else(|| no_setting("decoder"))?;
    let target = match case.setting_or("use_clip", true)? {
        true => MilanTarget::Features(Box::default()),
        false => MilanTarget::Pixels {
            norm_pix_loss: case.setting_or("norm_pix_loss", true)?,
        },
    };
    if case.setting_or("clip_input", "same_image".to_owned())? != "same_image" {
        return Err(Problem::unknown("another image for CLIP".to_owned()));
    }
    Ok(MilanConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        semantic: case.setting_or("attn_mask", true)?,
        decoder: MaeDecoderConfig {
            embed_dim: decoder.embed_dim,
            depth: decoder.depth,
            num_heads: decoder.num_heads,
            mlp_ratio: decoder.mlp_ratio.unwrap_or(encoder.mlp_ratio),
            norm_eps: encoder.norm_eps,
            ..defaults.decoder
        },
        encoder,
        target,
        ..MilanConfig::default()
    })
}

/// The mask of the case's draws; the recorded order must agree with it.
fn mask(case: &Case, config: &MilanConfig) -> Result<Mask> {
    let grid = config.encoder.grid()?;
    let floats = |name: &str| -> Result<Vec<f32>> {
        let values = case.required(name)?.to_dtype(DType::F32)?;
        Ok(values.flatten_all()?.to_vec1()?)
    };
    let WeightedMaskerConfig { mask_ratio } = WeightedMaskerConfig {
        mask_ratio: config.mask_ratio,
    };
    let mask = if config.semantic {
        let (scores, draws) = (floats("expect.importance")?, floats("input.exp_noise")?);
        WeightedMaskerConfig { mask_ratio }
            .build()?
            .from_draws(grid, &scores, &draws)?
    } else {
        RandomMaskerConfig { mask_ratio }
            .build()?
            .from_noise(grid, &floats("input.noise")?)?
    };
    let ids = |ids: &Tensor| -> Result<Vec<i64>> {
        Ok(ids.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?)
    };
    let device = &Device::Cpu;
    for (name, ours) in [
        ("input.ids_shuffle", mask.ids_order(device)?),
        ("input.ids_restore", mask.ids_restore(device)?),
    ] {
        if ids(case.required(name)?)? != ids(&ours)? {
            let what = format!("the masker gives another `{name}` for the recorded draws");
            return Err(case.bad(what).into());
        }
    }
    Ok(mask)
}

/// `2 - 2 cos` of each token.
fn loss_per_token(recorded: &Recorded) -> Result<Tensor> {
    let unit = |xs: Tensor| -> Result<Tensor> {
        let length = xs.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
        Ok(xs.broadcast_div(&length)?)
    };
    let pred = unit(recorded.get("pred.feature")?)?;
    let target = unit(recorded.get("teacher.latent")?)?;
    let cosine = (pred * target)?.sum(D::Minus1)?;
    Ok(cosine.affine(-2., 2.)?)
}

/// Attention of the tower's last block, heads averaged.
fn attention(recorded: &Recorded) -> Result<Tensor> {
    Ok(recorded.get("teacher.attention")?.mean(1)?)
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let features = matches!(config.target, MilanTarget::Features(_));
    let teacher = features.then(|| teacher(case, device)).transpose()?;
    let mut method = config.compose(&config.store(device, 0), teacher)?;
    method.override_mask(mask(case, &config)?)?;
    let images = case.required("input.image")?.to_device(device)?;
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    let pred = if features {
        "pred.feature"
    } else {
        "pred.pixel"
    };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named("mae")?,
        step: StepContext::new(0),
        batch: Batch::single(View::new(images, vec![])?),
        outputs: vec![
            ("latent", trace("latent")),
            ("pred", trace(pred)),
            ("clip_target", trace("teacher.latent")),
            ("clip_attention", Box::new(attention)),
            (
                "importance",
                Box::new(|recorded: &Recorded| {
                    let all = attention(recorded)?;
                    let row = all.narrow(1, 0, 1)?.squeeze(1)?;
                    Ok(row.narrow(1, 1, row.dim(1)? - 1)?)
                }),
            ),
            ("loss_per_token", Box::new(loss_per_token)),
        ],
    })
}
