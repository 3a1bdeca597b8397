//! The golden cases of SIM.

use candle_core::{DType, Device, Tensor};
use mim_core::nn::NormKind;
use mim_core::schedule::Schedule;
use mim_core::{Batch, Crop, StepContext, View};
use serde::Deserialize;

use super::SimConfig;
use crate::parity::golden::{
    Course, Golden, Made, Output, Plain, Setting, VIT, Views, constant, patches, several,
};
use crate::parity::trajectory::{self, Curve, Features};
use crate::parity::{Case, Problem, Result};
use Output::{By, Rows, Trace, Value};
use Setting::{Choice, Converted, Fixed, Informs, Renamed, Same};

pub(super) const GOLDEN: Golden<SimConfig> = Golden {
    settings: &[
        Fixed("world_size", Plain::Int(1)),
        VIT,
        Renamed("init_values", "encoder.layer_scale_init"),
        Same("", "", &["train_patch_embed", "teacher_norm_eps"]),
        Renamed("neg_weight", "objective.neg_weight"),
        Converted("num_masking_patches", "masker.hidden", patches),
        Choice(
            "momentum.schedule",
            &[
                ("cosine", &[Renamed("momentum.base", "momentum.start")]),
                (
                    "constant",
                    &[Converted("momentum.base", "momentum", constant)],
                ),
            ],
        ),
        Same("", "projector", &["mlp_ratio"]),
        Same(
            "decoder",
            "projector",
            &["embed_dim", "num_heads", "mlp_ratio"],
        ),
        Renamed("decoder.projector_depth", "projector.depth"),
        Renamed("decoder.projector_norm", "projector.norm"),
        Same("", "predictor", &["mlp_ratio"]),
        Same("decoder", "predictor", &["num_heads", "mlp_ratio"]),
        Renamed("decoder.predictor_depth", "predictor.depth"),
        Renamed("decoder.predictor_norm", "predictor.norm"),
        Renamed("online_ln", "predictor.output_norm"),
        Fixed("decoder.batch_norm_momentum", Plain::Float(0.1)),
        // The masks are recorded. `schedule` and `num_masking_patches` repeat what other keys say, and `ema` follows
        // from the schedule of the momentum.
        Informs(&["warmup_epochs", "mask_ratio", "ema"]),
    ],
    also: |case, config| {
        let batch_eps = case.setting_or("decoder.batch_norm_eps", 1e-5)?;
        let eps = |norm| match norm {
            NormKind::BatchNorm => batch_eps,
            NormKind::LayerNorm => config.encoder.norm_eps,
        };
        config.projector.norm_eps = eps(config.projector.norm);
        config.predictor.norm_eps = eps(config.predictor.norm);
        Ok(())
    },
    views: Views::By(|case, _, device| batch(case, device)),
    step: |case, _| place(case),
    outputs: &[
        ("latent", Trace("latent")),
        ("online_proj", Trace("projected")),
        ("mm_latent", Trace("teacher.latent")),
        ("target", Trace("teacher.patches")),
        ("target_norm", Rows("target.features")),
        ("rel_*", Trace("dense.rel_*")),
        ("decoder_in", Trace("dense.decoder_in")),
        ("pred", Trace("dense.pred")),
        ("pred_norm", Rows("pred.dense")),
        ("correlation", Trace("dense.correlation")),
        ("loss_pos", Trace("dense.loss_pos")),
        ("loss_neg", Trace("dense.loss_neg")),
        ("mm", Value(|config, step| config.momentum.at(step))),
        ("lr", By(|made, _| learning_rate(made))),
    ],
    course: Some(Course {
        also: |case, config| {
            config.momentum = trajectory::momentum(case)?;
            case.informs(&["min_block", "ema_names"]);
            Ok(())
        },
        curves: |config| {
            vec![
                ("loss_pos", Curve::Term("dense.pos", 1.)),
                ("loss_neg", Curve::Term("dense.neg", 1.)),
                ("momentum", Curve::Value(config.momentum.clone())),
            ]
        },
        ..Course::new(|config, device| {
            let features = |store| -> Result<Features> {
                Ok(Features::new(config.encoder.clone(), store, device)?.view(1))
            };
            Ok(vec![
                ("features", features("student")?),
                ("features_target", features("teacher")?),
            ])
        })
    }),
    ..Golden::new("sim", |config| config.encoder.grid())
};

/// `schedule` of a case.
#[derive(Deserialize)]
struct LearningRate {
    peak_lr: f64,
    min_lr: f64,
    warmup_epochs: f64,
    kind: String,
}

fn learning_rate(made: &Made<SimConfig>) -> Result<Tensor> {
    let LearningRate {
        peak_lr: peak,
        min_lr: min,
        warmup_epochs,
        kind,
    } = made.case.needs("schedule")?;
    if kind != "linear_warmup_half_cosine" {
        let what = format!("the learning rate schedule `{kind}`");
        return Err(Problem::unknown(what));
    }
    let schedule = Schedule::MaeCosine {
        peak,
        min,
        warmup_epochs,
    };
    Ok(Tensor::new(schedule.at(&made.step), &made.device)?)
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

fn batch(case: &Case, device: &Device) -> Result<Batch> {
    let [first, second] = crops(case)?;
    Ok(several(vec![
        View::new(case.on("input.x1", device)?, first)?,
        View::new(case.on("input.x2", device)?, second)?,
    ]))
}

/// The position in the run. A fraction of an epoch becomes a share of many steps.
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
