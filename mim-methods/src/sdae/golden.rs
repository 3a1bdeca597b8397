//! The golden cases of SdAE.

use candle_core::{D, DType, Device, Tensor};
use mim_core::StepContext;
use mim_core::schedule::{Per, Schedule};
use serde::Deserialize;

use super::{SdaeConfig, TeacherView};
use crate::parity::golden::{
    Golden, MAE_DECODER, Made, Masks, Output, Plain, Setting, VIT, random_mask,
};
use crate::parity::{Case, Problem, Recorded, Result};
use Output::{By, Trace};
use Setting::{Fixed, Same};

pub(super) const GOLDEN: Golden<SdaeConfig> = Golden {
    settings: &[
        VIT,
        MAE_DECODER,
        Same("", "", &["mask_ratio", "target_norm_eps"]),
        Fixed("cosine_eps", Plain::Float(1e-8)),
        Fixed("ema.when", Plain::Text("end_of_epoch")),
    ],
    also: |case, config| {
        config.teacher_view = teacher_view(case)?;
        let axis = match config.teacher_view {
            TeacherView::Folds { .. } => "token",
            TeacherView::Whole => "feature",
        };
        case.fixed("cosine_axis", axis.to_owned())?;
        config.momentum = momentum(case)?.0;
        Ok(())
    },
    masks: Masks::Noise(|config, grid, noise| random_mask(config.mask_ratio, grid, noise)),
    step: |case, _| Ok(momentum(case)?.1),
    outputs: &[
        ("latent", Trace("latent")),
        ("pred", Trace("pred.feature")),
        (
            "teacher_out",
            By(|made, recorded| {
                let rows = recorded.get("teacher.patches")?;
                match folded(made)? {
                    Some(_) => of_teacher(made, rows),
                    None => Ok(rows),
                }
            }),
        ),
        ("target_used", By(target)),
        ("pred_used", By(pred)),
        (
            "cos",
            By(|made, recorded| {
                // Axis 1, whatever it is.
                let axis = match folded(made)? {
                    Some(_) => D::Minus2,
                    None => D::Minus1,
                };
                cosine(&target(made, recorded)?, &pred(made, recorded)?, axis)
            }),
        ),
        (
            "loss_cosine_over_features",
            By(|made, recorded| {
                let (a, b) = (target(made, recorded)?, pred(made, recorded)?);
                Ok((1. - cosine(&a, &b, D::Minus1)?.mean_all()?)?)
            }),
        ),
        ("momentum_schedule", By(|made, _| momenta(made))),
    ],
    ..Golden::new("mae", |config| config.encoder.grid())
};

fn teacher_view(case: &Case) -> Result<TeacherView> {
    let (tokens, folds): (Option<usize>, Option<usize>) =
        (case.setting("shrink_num")?, case.setting("ncrop_loss")?);
    Ok(match (tokens, folds) {
        (None, None) => TeacherView::Whole,
        (Some(_), folds) => TeacherView::Folds {
            folds: folds.unwrap_or(1),
            tokens,
        },
        (None, Some(folds)) => {
            let what = format!("{folds} folds of whole images");
            return Err(Problem::unknown(what));
        }
    })
}

/// `ema_schedule` of a case.
#[derive(Deserialize)]
struct MomentumSchedule {
    momentum_start: f64,
    momentum_end: f64,
    epochs: usize,
    epoch: usize,
}

/// The momentum of the run, and the position of the case in the run.
fn momentum(case: &Case) -> Result<(Schedule, StepContext)> {
    let MomentumSchedule {
        momentum_start: start,
        momentum_end: end,
        epochs,
        epoch,
    } = case.needs("ema_schedule")?;
    let per = Per::Epoch;
    let schedule = Schedule::Cosine { start, end, per };
    let step = StepContext {
        epoch,
        epochs,
        ..StepContext::new(0)
    };
    let momentum: f64 = case.needs("ema.momentum")?;
    if (schedule.at(&step) - momentum).abs() > 1e-9 {
        let what = format!("SdAE's teacher moved with momentum {momentum}");
        return Err(Problem::unknown(what));
    }
    Ok((schedule, step))
}

/// The momentum of each epoch.
fn momenta(made: &Made<SdaeConfig>) -> Result<Tensor> {
    let epochs = (0..made.step.epochs).map(|epoch| StepContext {
        epoch,
        ..made.step.clone()
    });
    let values: Vec<f64> = epochs
        .map(|epoch| made.config.momentum.at(&epoch))
        .collect();
    Ok(Tensor::new(values, &Device::Cpu)?.to_dtype(DType::F32)?)
}

/// Number of patches of an image that are compared, and its folds; `None` if the teacher sees whole images.
fn folded(made: &Made<SdaeConfig>) -> Result<Option<(usize, usize)>> {
    let mask = made.mask()?;
    let hidden = mask.width() - mask.exact_keep()?;
    Ok(match made.config.teacher_view {
        TeacherView::Folds { folds, tokens } => Some((tokens.unwrap_or(hidden), folds)),
        TeacherView::Whole => None,
    })
}

/// The compared values out of those of all patches, in the authors' order: the folds of an image one after the other
/// (the first hidden patches in the mask's order), or all hidden patches.
fn rows(made: &Made<SdaeConfig>, all: &Tensor) -> Result<Tensor> {
    let (images, tokens, dim) = all.dims3()?;
    let (mask, folded) = (made.mask()?, folded(made)?);
    let mut ids = Vec::new();
    for row in 0..images {
        let mut hidden = mask.hidden(row).to_vec();
        match folded {
            Some((seen, _)) => hidden.truncate(seen),
            None => hidden.sort_unstable(),
        }
        let first = (row * tokens) as i64;
        ids.extend(hidden.iter().map(|id| first + i64::from(*id)));
    }
    let ids = Tensor::new(ids, all.device())?;
    let rows = all.flatten(0, 1)?.index_select(&ids, 0)?;
    Ok(match folded {
        Some((seen, folds)) => rows.reshape((images * folds, seen / folds, dim))?,
        None => rows,
    })
}

fn pred(made: &Made<SdaeConfig>, recorded: &Recorded) -> Result<Tensor> {
    rows(made, &recorded.get("pred.feature")?)
}

fn target(made: &Made<SdaeConfig>, recorded: &Recorded) -> Result<Tensor> {
    of_teacher(made, recorded.get("target.features")?)
}

/// The teacher's output for the folds of an image, one after the other, each fold encoded separately.
fn of_teacher(made: &Made<SdaeConfig>, all: Tensor) -> Result<Tensor> {
    let Some((seen, folds)) = folded(made)? else {
        return rows(made, &all);
    };
    let (images, _, dim) = all.dims3()?;
    Ok(all.reshape((images * folds, seen / folds, dim))?)
}

fn cosine(a: &Tensor, b: &Tensor, axis: D) -> Result<Tensor> {
    let length = |xs: &Tensor| -> Result<Tensor> { Ok(xs.sqr()?.sum(axis)?.sqrt()?) };
    Ok(((a * b)?.sum(axis)? / length(a)?)?.div(&length(b)?)?)
}
