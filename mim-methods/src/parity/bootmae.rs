//! Golden cases of BootMAE.

use candle_core::{DType, Device, Tensor};
use mim_core::decoders::InjectDecoderConfig;
use mim_core::objectives::TokenWeights;
use mim_core::ops::{PatchOrder, unpatchify};
use mim_core::schedule::{Per, Point, Schedule};
use mim_core::weights::Source;
use mim_core::{Mask, Method, PatchGrid, StepContext};
use mim_masking::{HiddenCount, RolledBlockMaskerConfig};
use mim_targets::PatchNorm;
use serde::Deserialize;

use super::mae::vit;
use super::run::Extract;
use super::trajectory::{self, Curve, Features, Replay, Shape};
use super::{Case, Problem, Recorded, Result, Rounding, Setup, mae};
use crate::{BootMaeConfig, MethodConfig};

/// `decoder` or `feature_decoder` of a case.
#[derive(Deserialize)]
struct Decoder {
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
}

/// Names under which cases record the injected output of a block.
const BLOCKS: [&str; 24] = [
    "fea0", "fea1", "fea2", "fea3", "fea4", "fea5", "fea6", "fea7", "fea8", "fea9", "fea10",
    "fea11", "fea12", "fea13", "fea14", "fea15", "fea16", "fea17", "fea18", "fea19", "fea20",
    "fea21", "fea22", "fea23",
];

fn decoder(
    case: &Case,
    key: &str,
    defaults: InjectDecoderConfig,
    layer: usize,
) -> Result<InjectDecoderConfig> {
    let sizes = case.setting::<Decoder>(key)?.unwrap_or(Decoder {
        embed_dim: defaults.embed_dim,
        depth: defaults.depth,
        num_heads: defaults.num_heads,
    });
    Ok(InjectDecoderConfig {
        embed_dim: sizes.embed_dim,
        depth: sizes.depth,
        num_heads: sizes.num_heads,
        mlp_ratio: case.setting_or("mlp_ratio", defaults.mlp_ratio)?,
        norm_eps: case.setting_or("norm_eps", defaults.norm_eps)?,
        layer: Some(layer),
    })
}

/// From `start` to 0.9999 in 100 epochs, then held, or on to 0.99999 in 300 more.
fn momentum(start: f64, dynamic: bool) -> Schedule {
    let point = |epoch, value| Point { epoch, value };
    let mut points = vec![point(0., start), point(100., 0.9999)];
    if dynamic {
        points.push(point(400., 0.999_99));
    }
    Schedule::Piecewise {
        points,
        per: Per::Epoch,
    }
}

fn config(case: &Case) -> Result<BootMaeConfig> {
    let defaults = BootMaeConfig::default();
    let encoder = vit(case, defaults.encoder)?;
    // One entry serves both decoders.
    let last = encoder.depth.saturating_sub(1);
    let layers: Vec<usize> = case.setting_or("fea_list", vec![0, last])?;
    let Some(&first) = layers.first() else {
        return Err(case.bad("`fea_list` is empty".to_owned()).into());
    };
    let last = layers.get(1).copied().unwrap_or(first);
    let patch_norm = match case.setting_or("norm_pix_loss", true)? {
        true => PatchNorm::Channel {
            eps: case.setting_or("pix_norm_eps", 1e-5)?,
        },
        false => PatchNorm::None,
    };
    let token_weights = match case.setting_or("weight_mask", true)? {
        true => TokenWeights::Neighbours,
        false => TokenWeights::Uniform,
    };
    Ok(BootMaeConfig {
        masker: RolledBlockMaskerConfig {
            hidden: HiddenCount::Patches {
                count: case.setting_or("mask_num", 147)?,
            },
            ..defaults.masker
        },
        patch_norm,
        token_weights,
        feature_weight: Schedule::Ramp {
            value: case.setting_or("feature_weight", 1.)?,
            factor: 4.,
        },
        momentum: momentum(
            case.setting_or("model_ema_decay", 0.999)?,
            case.setting_or("model_ema_dynamic", true)?,
        ),
        decoder: decoder(case, "decoder", defaults.decoder, first)?,
        feature_decoder: decoder(case, "feature_decoder", defaults.feature_decoder, last)?,
        encoder,
        ..BootMaeConfig::default()
    })
}

/// The mask of the recorded blocks, noise and roll; the recorded order must agree with it.
fn mask(case: &Case, config: &BootMaeConfig) -> Result<Mask> {
    // The blocks are recorded, and so is the teacher after the step.
    case.informs(&["block_masker", "mask_ratio", "ema"]);
    let grid = config.encoder.grid()?;
    let noise: Vec<f32> = case.required("input.rand")?.flatten_all()?.to_vec1()?;
    let roll = case.required("input.rand_roll")?.to_dtype(DType::U32)?;
    let roll: Vec<u32> = roll.flatten_all()?.to_vec1()?;
    let [roll] = roll[..] else {
        return Err(case
            .bad("`input.rand_roll` is not one number".to_owned())
            .into());
    };
    let blocks = case.bits("input.block_mask", grid)?;
    let masker = config.masker.build()?;
    let mask = masker.from_draws(grid, &blocks, &noise, roll as usize)?;
    let Some(order) = case.tensor("input.idx_shuffle") else {
        return Ok(mask);
    };
    let order = order.to_dtype(DType::U32)?;
    let ours = mask.ids_order(&Device::Cpu)?;
    if order.flatten_all()?.to_vec1::<u32>()? != ours.flatten_all()?.to_vec1::<u32>()? {
        let what = "the masker gives another `input.idx_shuffle` for the recorded draws";
        return Err(case.bad(what.to_owned()).into());
    }
    Ok(mask)
}

/// The weights of all tokens, zero for visible ones, from those of the hidden in the mask's order.
fn in_image_order(weights: &Tensor, mask: &Mask) -> Result<Tensor> {
    let (tokens, weights) = (mask.grid().len(), weights.to_vec1::<f32>()?);
    let places = (0..mask.rows()).flat_map(|row| {
        mask.hidden(row)
            .iter()
            .map(move |&id| row * tokens + id as usize)
    });
    let mut all = vec![0f32; mask.rows() * tokens];
    for (place, weight) in places.zip(weights) {
        all[place] = weight;
    }
    Ok(Tensor::from_vec(all, (mask.rows(), tokens), &Device::Cpu)?)
}

fn traced(name: &'static str) -> Extract {
    Box::new(move |recorded: &Recorded| recorded.get(name))
}

/// A whole image from its patches.
fn image(name: &'static str, patch: usize, grid: PatchGrid) -> Extract {
    Box::new(move |recorded: &Recorded| {
        let patches = recorded.get(name)?;
        Ok(unpatchify(
            &patches,
            patch,
            grid,
            PatchOrder::ChannelsThenPixels,
        )?)
    })
}

fn number(value: f64) -> Extract {
    Box::new(move |_: &Recorded| {
        let value = Tensor::new(value, &Device::Cpu)?;
        Ok(value.to_dtype(DType::F32)?)
    })
}

fn outputs(
    config: &BootMaeConfig,
    mask: Mask,
    step: &StepContext,
) -> Result<Vec<(&'static str, Extract)>> {
    let (grid, patch) = (config.encoder.grid()?, config.encoder.patch_size);
    let bits = mask.bits(&Device::Cpu)?;
    let map = bits.reshape(((), grid.rows, grid.cols))?;
    let weights: Extract = match config.token_weights {
        TokenWeights::Neighbours => Box::new(move |recorded: &Recorded| {
            in_image_order(&recorded.get("pixel.weights")?, &mask)
        }),
        TokenWeights::Uniform => Box::new(move |_: &Recorded| Ok(bits.clone())),
    };
    let block = |layer: Option<usize>| {
        let name = BLOCKS.get(layer.unwrap_or(usize::MAX));
        name.copied()
            .ok_or_else(|| Problem::unknown(format!("BootMAE with the block {layer:?} injected")))
    };
    Ok(vec![
        ("patch_tokens", traced("patch_embed")),
        ("latent", traced("latent")),
        (block(config.decoder.layer)?, traced("pixel.injected")),
        (
            block(config.feature_decoder.layer)?,
            traced("feature.injected"),
        ),
        ("pix_decoder_in", traced("pixel.decoder_in")),
        ("feat_decoder_in", traced("feature.decoder_in")),
        ("pix_pred", image("pred.pixel", patch, grid)),
        ("pix_target", image("target.pixels", patch, grid)),
        ("feat_pred", traced("pred.feature")),
        ("feat_target", traced("target.features")),
        ("loss_mask", Box::new(move |_: &Recorded| Ok(map.clone()))),
        ("perc_mask", weights),
        ("loss_pixel", traced("loss.pixel")),
        ("loss_feature", traced("loss.feature")),
        ("feature_weight", number(config.feature_weight.at(step))),
        ("ema_decay", number(config.momentum.at(step))),
    ])
}

fn source(case: &Case) -> Result<Source> {
    let name: String = case.setting_or("source_names", "bootmae".to_owned())?;
    Ok(Source::named(&name)?)
}

/// The release averages the decoders too, though its teacher decodes nothing.
const DECODERS_OF_TEACHER: [&str; 4] = [
    "teacher.decode_",
    "teacher.down",
    "teacher.lm_head",
    "teacher.mask_token",
];

pub(super) fn replay(case: &Case, device: &Device) -> Result<Replay> {
    let config = config(case)?;
    trajectory::fixed_momentum(
        case,
        "bootmae_per_epoch",
        config.momentum.at(&StepContext::new(0)),
    )?;
    let features = |store| -> Result<Features> {
        let features = Features::new(config.encoder.clone(), store, device)?;
        Ok(features.skip_norm().shape(Shape::Patches))
    };
    Ok(Replay {
        method: Box::new(config.build(&config.store(device, 0))?),
        source: source(case)?,
        renamed: &[],
        absent: &DECODERS_OF_TEACHER,
        curves: vec![
            ("loss_pixel", Curve::Term("pixel", 1.)),
            ("loss_feature", Curve::Term("feature", 1.)),
            (
                "feature_weight",
                Curve::Value(config.feature_weight.clone()),
            ),
            ("momentum", Curve::Value(config.momentum.clone())),
        ],
        features: vec![
            ("features", features("student")?),
            ("features_teacher", features("teacher")?),
        ],
        inputs: Box::new(move |case, device| Ok((mae::batch(case, device)?, mask(case, &config)?))),
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let mask = mask(case, &config)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask.clone())?;
    let step = StepContext {
        epoch: case.setting_or("epoch", 0)?,
        epochs: case.setting_or("epochs", 801)?,
        ..StepContext::new(0)
    };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: source(case)?,
        batch: mae::batch(case, device)?,
        outputs: outputs(&config, mask, &step)?,
        step,
    })
}
