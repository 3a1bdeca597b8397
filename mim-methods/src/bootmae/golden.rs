//! The golden cases of BootMAE.

use candle_core::{Device, Tensor};
use mim_core::objectives::TokenWeights;
use mim_core::schedule::{Per, Point, Schedule};
use mim_core::{Mask, PatchGrid, StepContext};

use super::BootMaeConfig;
use crate::parity::golden::{
    Course, Golden, Made, Masks, Output, Plain, Setting, VIT, patches, same,
};
use crate::parity::trajectory::{Curve, Features, Shape, fixed_momentum};
use crate::parity::{Case, Problem, Recorded, Result};
use Output::{By, Image, Part, Trace, Value};
use Setting::{Choice, Converted, Informs, Renamed, Same, Set, Word};

pub(super) const GOLDEN: Golden<BootMaeConfig> = Golden {
    settings: &[
        VIT,
        Converted("mask_num", "masker.hidden", patches),
        Choice(
            "norm_pix_loss",
            &[
                (
                    "true",
                    &[
                        Set("patch_norm.type", Plain::Text("channel")),
                        Renamed("pix_norm_eps", "patch_norm.eps"),
                    ],
                ),
                ("false", &[Set("patch_norm.type", Plain::Text("none"))]),
            ],
        ),
        Word(
            "weight_mask",
            "token_weights",
            &[("true", "neighbours"), ("false", "uniform")],
        ),
        Renamed("feature_weight", "feature_weight.value"),
        Same("", "decoder", &["mlp_ratio", "norm_eps"]),
        Same("", "feature_decoder", &["mlp_ratio", "norm_eps"]),
        Same("decoder", "decoder", DECODER),
        Same("feature_decoder", "feature_decoder", DECODER),
        // The blocks are recorded, and so is the teacher after the step.
        Informs(&["block_masker", "mask_ratio", "ema", "pix_norm_eps"]),
    ],
    also: |case, config| {
        let last = config.encoder.depth.saturating_sub(1);
        let layers: Vec<usize> = case.setting_or("fea_list", vec![0, last])?;
        // One entry is for both decoders.
        let (Some(&first), Some(&last)) = (layers.first(), layers.get(1).or(layers.first())) else {
            return Err(case.bad("`fea_list` is empty".to_owned()).into());
        };
        config.decoder.layer = Some(first);
        config.feature_decoder.layer = Some(last);
        config.momentum = momentum(
            case.setting_or("model_ema_decay", 0.999)?,
            case.setting_or("model_ema_dynamic", true)?,
        );
        Ok(())
    },
    masks: Masks::By(mask),
    step: |case, _| {
        Ok(StepContext {
            epoch: case.setting_or("epoch", 0)?,
            epochs: case.setting_or("epochs", 801)?,
            ..StepContext::new(0)
        })
    },
    outputs: &[
        ("patch_tokens", Trace("patch_embed")),
        ("latent", Trace("latent")),
        ("pix_decoder_in", Trace("pixel.decoder_in")),
        ("feat_decoder_in", Trace("feature.decoder_in")),
        (
            "pix_pred",
            Image("pred.pixel", |config| config.encoder.patch_size),
        ),
        (
            "pix_target",
            Image("target.pixels", |config| config.encoder.patch_size),
        ),
        ("feat_pred", Trace("pred.feature")),
        ("feat_target", Trace("target.features")),
        (
            "loss_mask",
            By(|made, _| {
                let (mask, grid) = (made.mask()?, made.mask()?.grid());
                Ok(mask
                    .bits(&Device::Cpu)?
                    .reshape(((), grid.rows, grid.cols))?)
            }),
        ),
        ("perc_mask", By(weights)),
        ("loss_pixel", Trace("loss.pixel")),
        ("loss_feature", Trace("loss.feature")),
        (
            "feature_weight",
            Value(|config, step| config.feature_weight.at(step)),
        ),
        ("ema_decay", Value(|config, step| config.momentum.at(step))),
        ("fea*", Part(injected)),
    ],
    course: Some(Course {
        also: |case, config| {
            let start = config.momentum.at(&StepContext::new(0));
            fixed_momentum(case, "bootmae_per_epoch", start)
        },
        curves: |config| {
            vec![
                ("loss_pixel", Curve::Term("pixel", 1.)),
                ("loss_feature", Curve::Term("feature", 1.)),
                (
                    "feature_weight",
                    Curve::Value(config.feature_weight.clone()),
                ),
                ("momentum", Curve::Value(config.momentum.clone())),
            ]
        },
        // The release also averages the decoders, although its teacher never decodes.
        absent: &[
            "teacher.decode_",
            "teacher.down",
            "teacher.lm_head",
            "teacher.mask_token",
        ],
        ..Course::new(|config, device| {
            let features = |store| -> Result<Features> {
                let features = Features::new(config.encoder.clone(), store, device)?;
                Ok(features.skip_norm().shape(Shape::Patches))
            };
            Ok(vec![
                ("features", features("student")?),
                ("features_teacher", features("teacher")?),
            ])
        })
    }),
    ..Golden::new("bootmae", |config| config.encoder.grid())
};

const DECODER: &[&str] = &["embed_dim", "depth", "num_heads"];

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

/// The mask from the recorded blocks, noise and roll. The recorded order must agree with it.
fn mask(case: &Case, config: &BootMaeConfig, grid: PatchGrid) -> Result<Mask> {
    let noise: Vec<f32> = case.flat("input.rand")?;
    let [roll] = case.flat::<u32>("input.rand_roll")?[..] else {
        let what = "`input.rand_roll` is not one number".to_owned();
        return Err(case.bad(what).into());
    };
    let blocks = case.bits("input.block_mask", grid)?;
    let masker = config.masker.build()?;
    let mask = masker.from_draws(grid, &blocks, &noise, roll as usize)?;
    if case.tensor("input.idx_shuffle").is_some() {
        same(case, "input.idx_shuffle", &mask.ids_order(&Device::Cpu)?)?;
    }
    Ok(mask)
}

/// The weights of all tokens, zero for visible ones, from the weights of hidden tokens in the mask's order.
fn weights(made: &Made<BootMaeConfig>, recorded: &Recorded) -> Result<Tensor> {
    let mask = made.mask()?;
    if made.config.token_weights == TokenWeights::Uniform {
        return Ok(mask.bits(&Device::Cpu)?);
    }
    let weights = recorded.get("pixel.weights")?.to_vec1::<f32>()?;
    let tokens = mask.grid().len();
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

/// The output of a block that is injected into one of the decoders.
fn injected(made: &Made<BootMaeConfig>, recorded: &Recorded, block: &str) -> Result<Tensor> {
    let is = |layer: Option<usize>| layer.is_some_and(|layer| layer.to_string() == block);
    let config = &made.config;
    match (is(config.decoder.layer), is(config.feature_decoder.layer)) {
        (true, _) => recorded.get("pixel.injected"),
        (_, true) => recorded.get("feature.injected"),
        _ => Err(Problem::unknown(format!(
            "BootMAE's block {block}, which is injected nowhere"
        ))),
    }
}
