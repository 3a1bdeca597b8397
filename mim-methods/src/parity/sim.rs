//! Golden cases of SIM.

use candle_core::{DType, Device, Tensor};
use mim_core::decoders::RelativePredictorConfig;
use mim_core::encoders::{ProjectorConfig, VitConfig};
use mim_core::nn::NormKind;
use mim_core::objectives::UniGradConfig;
use mim_core::schedule::{Per, Schedule};
use mim_core::weights::Source;
use mim_core::{Batch, Crop, Mask, Method, StepContext, View};
use mim_masking::{BlockwiseMaskerConfig, HiddenCount};
use serde::Deserialize;

use super::mae::vit;
use super::run::Extract;
use super::trajectory::{self, Curve, Features, Replay};
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{MethodConfig, SimConfig};

#[derive(Deserialize)]
struct Decoder {
    embed_dim: Option<usize>,
    projector_depth: Option<usize>,
    predictor_depth: Option<usize>,
    num_heads: Option<usize>,
    mlp_ratio: Option<f64>,
    projector_norm: Option<NormKind>,
    predictor_norm: Option<NormKind>,
    batch_norm_eps: Option<f64>,
    batch_norm_momentum: Option<f64>,
}

#[derive(Deserialize)]
struct Momentum {
    base: f64,
    schedule: String,
}

#[derive(Deserialize)]
struct LearningRate {
    peak_lr: f64,
    min_lr: f64,
    warmup_epochs: f64,
    kind: String,
}

/// Projector and predictor of the case.
fn heads(case: &Case, encoder: &VitConfig) -> Result<(ProjectorConfig, RelativePredictorConfig)> {
    let (projector, predictor) = (
        ProjectorConfig {
            mlp_ratio: encoder.mlp_ratio,
            ..ProjectorConfig::default()
        },
        RelativePredictorConfig {
            mlp_ratio: encoder.mlp_ratio,
            output_norm: case.setting_or("online_ln", false)?,
            ..RelativePredictorConfig::default()
        },
    );
    let Some(decoder) = case.setting::<Decoder>("decoder")? else {
        return Ok((projector, predictor));
    };
    if decoder
        .batch_norm_momentum
        .is_some_and(|share| share != 0.1)
    {
        return Err(Problem::unknown(
            "another momentum of batch norm".to_owned(),
        ));
    }
    let eps = |norm| match norm {
        NormKind::BatchNorm => decoder.batch_norm_eps.unwrap_or(1e-5),
        NormKind::LayerNorm => encoder.norm_eps,
    };
    let (first, second) = (
        decoder.projector_norm.unwrap_or(projector.norm),
        decoder.predictor_norm.unwrap_or(predictor.norm),
    );
    Ok((
        ProjectorConfig {
            embed_dim: decoder.embed_dim.unwrap_or(projector.embed_dim),
            depth: decoder.projector_depth.unwrap_or(projector.depth),
            num_heads: decoder.num_heads.unwrap_or(projector.num_heads),
            mlp_ratio: decoder.mlp_ratio.unwrap_or(projector.mlp_ratio),
            norm: first,
            norm_eps: eps(first),
        },
        RelativePredictorConfig {
            depth: decoder.predictor_depth.unwrap_or(predictor.depth),
            num_heads: decoder.num_heads.unwrap_or(predictor.num_heads),
            mlp_ratio: decoder.mlp_ratio.unwrap_or(predictor.mlp_ratio),
            norm: second,
            norm_eps: eps(second),
            ..predictor
        },
    ))
}

fn momentum(case: &Case, default: Schedule) -> Result<Schedule> {
    let Some(Momentum { base, schedule }) = case.setting("momentum")? else {
        return Ok(default);
    };
    match schedule.as_str() {
        "constant" => Ok(Schedule::constant(base)),
        "cosine" => Ok(Schedule::Cosine {
            start: base,
            end: 1.,
            per: Per::Iter,
        }),
        other => Err(Problem::unknown(format!("the momentum schedule `{other}`"))),
    }
}

fn learning_rate(case: &Case) -> Result<Option<Schedule>> {
    // `schedule` and `num_masking_patches` say it again; `ema` is what the momentum's schedule gives.
    case.informs(&["warmup_epochs", "mask_ratio", "ema"]);
    match case.setting("schedule")? {
        Some(LearningRate {
            peak_lr,
            min_lr,
            warmup_epochs,
            kind,
        }) if kind == "linear_warmup_half_cosine" => Ok(Some(Schedule::MaeCosine {
            peak: peak_lr,
            min: min_lr,
            warmup_epochs,
        })),
        Some(LearningRate { kind, .. }) => Err(Problem::unknown(format!(
            "the learning rate schedule `{kind}`"
        ))),
        None => Ok(None),
    }
}

fn config(case: &Case) -> Result<SimConfig> {
    let defaults = SimConfig::default();
    let processes: usize = case.setting_or("world_size", 1)?;
    if processes != 1 {
        return Err(Problem::unknown(format!("a step of {processes} processes")));
    }
    let encoder = VitConfig {
        layer_scale_init: case.setting("init_values")?,
        ..vit(case, defaults.encoder)?
    };
    let (projector, predictor) = heads(case, &encoder)?;
    let hidden = match case.setting("num_masking_patches")? {
        Some(count) => HiddenCount::Patches { count },
        None => defaults.masker.hidden,
    };
    Ok(SimConfig {
        momentum: momentum(case, defaults.momentum)?,
        train_patch_embed: case.setting_or("train_patch_embed", false)?,
        teacher_norm_eps: case.setting_or("teacher_norm_eps", defaults.teacher_norm_eps)?,
        masker: BlockwiseMaskerConfig {
            hidden,
            ..defaults.masker
        },
        objective: UniGradConfig {
            neg_weight: case.setting_or("neg_weight", defaults.objective.neg_weight)?,
        },
        encoder,
        projector,
        predictor,
        ..SimConfig::default()
    })
}

/// The crops of both views: top, left, height, width, flip of each, then the width of the source.
fn crops(case: &Case) -> Result<[Vec<Crop>; 2]> {
    let boxes = case.required("input.crop_boxes")?.to_dtype(DType::F32)?;
    let mut views = [vec![], vec![]];
    for row in boxes.to_vec2::<f32>()? {
        let [sides @ .., width] = row.as_slice() else {
            return Err(case.bad("`input.crop_boxes` is empty".to_owned()).into());
        };
        if sides.len() != 10 {
            return Err(case
                .bad("`input.crop_boxes` must have 11 columns".to_owned())
                .into());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the width of an image"
        )]
        let width = *width as u32;
        for (view, side) in views.iter_mut().zip(sides.chunks_exact(5)) {
            view.push(Crop {
                top: side[0],
                left: side[1],
                height: side[2],
                width: side[3],
                flipped: side[4] != 0.,
                // The height of the source is not recorded, and nothing depends on it.
                ..Crop::whole((width, width))
            });
        }
    }
    Ok(views)
}

/// The place in the run; a fraction of an epoch becomes a share of many steps.
fn place(case: &Case) -> Result<StepContext> {
    const STEPS: usize = 1 << 24;
    let epoch: f64 = case.setting_or("epoch", 0.)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an epoch is small and not negative"
    )]
    let (whole, iter) = (
        epoch as usize,
        (epoch.fract() * STEPS as f64).round() as usize,
    );
    Ok(StepContext {
        epoch: whole,
        epochs: case.setting_or("epochs", 1)?,
        iter,
        iters_per_epoch: STEPS,
        ..StepContext::new(0)
    })
}

fn mask(case: &Case, config: &SimConfig) -> Result<Mask> {
    let grid = config.encoder.grid()?;
    Ok(Mask::from_bits(grid, &case.bits("input.mask", grid)?)?)
}

fn batch(case: &Case, device: &Device) -> Result<Batch> {
    let [first, second] = crops(case)?;
    let view = |name: &str, crops| View::new(case.required(name)?.to_device(device)?, crops);
    Ok(Batch {
        views: vec![view("input.x1", first)?, view("input.x2", second)?],
        indices: Vec::new(),
        labels: None,
        extras: std::collections::BTreeMap::new(),
    })
}

fn source(case: &Case) -> Result<Source> {
    let name: String = case.setting_or("source_names", "sim".to_owned())?;
    Ok(Source::named(&name)?)
}

pub(super) fn replay(case: &Case, device: &Device) -> Result<Replay> {
    // The masks are recorded; `num_masking_patches` and `ema_schedule` say the rest again.
    case.informs(&["mask_ratio", "min_block", "ema", "ema_names"]);
    let config = SimConfig {
        momentum: trajectory::momentum(case)?,
        ..config(case)?
    };
    let features = |store| -> Result<Features> {
        Ok(Features::new(config.encoder.clone(), store, device)?.view(1))
    };
    Ok(Replay {
        method: Box::new(config.build(&config.store(device, 0))?),
        source: source(case)?,
        renamed: &[],
        absent: &[],
        curves: vec![
            ("loss_pos", Curve::Term("dense.pos", 1.)),
            ("loss_neg", Curve::Term("dense.neg", 1.)),
            ("momentum", Curve::Value(config.momentum.clone())),
        ],
        features: vec![
            ("features", features("student")?),
            ("features_target", features("teacher")?),
        ],
        inputs: Box::new(move |case, device| Ok((batch(case, device)?, mask(case, &config)?))),
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask(case, &config)?)?;
    let step = place(case)?;
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: source(case)?,
        batch: batch(case, device)?,
        outputs: outputs(case, &config, &step, device)?,
        step,
    })
}

fn outputs(
    case: &Case,
    config: &SimConfig,
    step: &StepContext,
    device: &Device,
) -> Result<Vec<(&'static str, Extract)>> {
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    // Theirs has the rows of all images on one axis.
    let rows = |name: &'static str| -> Extract {
        Box::new(move |recorded: &Recorded| Ok(recorded.get(name)?.flatten_to(1)?))
    };
    let value = |schedule: &Schedule| -> Extract {
        let (value, device) = (schedule.at(step), device.clone());
        Box::new(move |_: &Recorded| Ok(Tensor::new(value, &device)?))
    };
    let mut outputs = vec![
        ("latent", trace("latent")),
        ("online_proj", trace("projected")),
        ("mm_latent", trace("teacher.latent")),
        ("target", trace("teacher.patches")),
        ("target_norm", rows("target.features")),
        ("rel_grid_h", trace("dense.rel_grid_h")),
        ("rel_grid_w", trace("dense.rel_grid_w")),
        ("rel_sincos", trace("dense.rel_sincos")),
        ("rel_embed", trace("dense.rel_embed")),
        ("decoder_in", trace("dense.decoder_in")),
        ("pred", trace("dense.pred")),
        ("pred_norm", rows("pred.dense")),
        ("correlation", trace("dense.correlation")),
        ("loss_pos", trace("dense.loss_pos")),
        ("loss_neg", trace("dense.loss_neg")),
        ("mm", value(&config.momentum)),
    ];
    if let Some(schedule) = learning_rate(case)? {
        outputs.push(("lr", value(&schedule)));
    }
    Ok(outputs)
}
