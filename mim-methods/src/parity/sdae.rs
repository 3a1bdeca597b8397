//! Golden cases of SdAE.

use candle_core::{D, DType, Device, Tensor};
use mim_core::decoders::MaeDecoderConfig;
use mim_core::schedule::{Per, Schedule};
use mim_core::weights::Source;
use mim_core::{Mask, Method, StepContext};
use serde::Deserialize;

use super::mae::{Decoder, batch, mask, vit};
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{MethodConfig, SdaeConfig, TeacherView};

/// `ema` of a case.
#[derive(Deserialize)]
struct Momentum {
    momentum: f64,
    when: String,
}

/// `ema_schedule` of a case.
#[derive(Deserialize)]
struct MomentumSchedule {
    momentum_start: f64,
    momentum_end: f64,
    epochs: usize,
    epoch: usize,
}

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

/// The momentum of the run, and the place of the case in it.
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
    let Momentum { momentum, when } = case.needs("ema")?;
    if when != "end_of_epoch" || (schedule.at(&step) - momentum).abs() > 1e-9 {
        let what = format!("SdAE's teacher moved {when} with momentum {momentum}");
        return Err(Problem::unknown(what));
    }
    Ok((schedule, step))
}

fn config(case: &Case) -> Result<SdaeConfig> {
    let defaults = SdaeConfig::default();
    let encoder = vit(case, defaults.encoder)?;
    let decoder: Decoder = case.needs("decoder")?;
    case.fixed("cosine_eps", 1e-8)?;
    let view = teacher_view(case)?;
    let axis = match view {
        TeacherView::Folds { .. } => "token",
        TeacherView::Whole => "feature",
    };
    case.fixed("cosine_axis", axis.to_owned())?;
    Ok(SdaeConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        teacher_view: view,
        target_norm_eps: case.setting_or("target_norm_eps", defaults.target_norm_eps)?,
        momentum: momentum(case)?.0,
        decoder: MaeDecoderConfig {
            embed_dim: decoder.embed_dim,
            depth: decoder.depth,
            num_heads: decoder.num_heads,
            mlp_ratio: decoder.mlp_ratio.unwrap_or(encoder.mlp_ratio),
            norm_eps: encoder.norm_eps,
            ..defaults.decoder
        },
        encoder,
        ..SdaeConfig::default()
    })
}

/// What is compared, as they order it: the folds of an image one after the other, or all hidden patches.
#[derive(Clone)]
struct Compared {
    mask: Mask,
    /// Patches of an image that are compared, and its folds; none if the teacher sees whole images.
    folded: Option<(usize, usize)>,
}

impl Compared {
    /// The values of hidden patches among those of all, or those of the first in the mask's order.
    fn rows(&self, all: &Tensor) -> Result<Tensor> {
        let (images, tokens, dim) = all.dims3()?;
        let mut ids = Vec::new();
        for row in 0..images {
            let mut hidden = self.mask.hidden(row).to_vec();
            match self.folded {
                Some((seen, _)) => hidden.truncate(seen),
                None => hidden.sort_unstable(),
            }
            ids.extend(
                hidden
                    .iter()
                    .map(|id| (row * tokens) as i64 + i64::from(*id)),
            );
        }
        let ids = Tensor::new(ids, all.device())?;
        let rows = all.flatten(0, 1)?.index_select(&ids, 0)?;
        Ok(match self.folded {
            Some((seen, folds)) => rows.reshape((images * folds, seen / folds, dim))?,
            None => rows,
        })
    }

    fn pred(&self, recorded: &Recorded) -> Result<Tensor> {
        self.rows(&recorded.get("pred.feature")?)
    }

    fn target(&self, recorded: &Recorded) -> Result<Tensor> {
        self.of_teacher(recorded.get("target.features")?)
    }

    /// What the teacher gives for the folds of an image one after the other: that of each fold by itself.
    fn of_teacher(&self, rows: Tensor) -> Result<Tensor> {
        let Some((seen, folds)) = self.folded else {
            return self.rows(&rows);
        };
        let (images, _, dim) = rows.dims3()?;
        Ok(rows.reshape((images * folds, seen / folds, dim))?)
    }
}

fn cosine(a: &Tensor, b: &Tensor, axis: D) -> Result<Tensor> {
    let length = |xs: &Tensor| -> Result<Tensor> { Ok(xs.sqr()?.sum(axis)?.sqrt()?) };
    Ok(((a * b)?.sum(axis)? / length(a)?)?.div(&length(b)?)?)
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let mask = mask(case, config.encoder.grid()?, config.mask_ratio)?;
    let masked: Vec<u32> = case.flat("input.ids_masked")?;
    if masked != mask.ids_masked(device)?.flatten_all()?.to_vec1::<u32>()? {
        let what = "the masker hides patches in another order than `input.ids_masked`";
        return Err(case.bad(what.to_owned()).into());
    }
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask.clone())?;
    let hidden = mask.width() - mask.exact_keep()?;
    let folded = match config.teacher_view {
        TeacherView::Folds { folds, tokens } => Some((tokens.unwrap_or(hidden), folds)),
        TeacherView::Whole => None,
    };
    let (schedule, step) = momentum(case)?;
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "mae".to_owned())?)?,
        batch: batch(case, device)?,
        outputs: outputs(Compared { mask, folded }, schedule, step.clone()),
        step,
    })
}

fn outputs(
    compared: Compared,
    schedule: Schedule,
    step: StepContext,
) -> Vec<(&'static str, Extract)> {
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    type Made = fn(&Compared, &Recorded) -> Result<Tensor>;
    let made = |make: Made| -> Extract {
        let compared = compared.clone();
        Box::new(move |recorded: &Recorded| make(&compared, recorded))
    };
    vec![
        ("latent", trace("latent")),
        ("pred", trace("pred.feature")),
        (
            "teacher_out",
            made(|compared, recorded| {
                let rows = recorded.get("teacher.patches")?;
                match compared.folded {
                    Some(_) => compared.of_teacher(rows),
                    None => Ok(rows),
                }
            }),
        ),
        ("target_used", made(Compared::target)),
        ("pred_used", made(Compared::pred)),
        (
            "cos",
            made(|compared, recorded| {
                let (a, b) = (compared.target(recorded)?, compared.pred(recorded)?);
                // Axis 1, whatever it is.
                let axis = match compared.folded {
                    Some(_) => D::Minus2,
                    None => D::Minus1,
                };
                cosine(&a, &b, axis)
            }),
        ),
        (
            "loss_cosine_over_features",
            made(|compared, recorded| {
                let (a, b) = (compared.target(recorded)?, compared.pred(recorded)?);
                Ok((1. - cosine(&a, &b, D::Minus1)?.mean_all()?)?)
            }),
        ),
        (
            "momentum_schedule",
            Box::new(move |_: &Recorded| {
                let epochs = (0..step.epochs).map(|epoch| StepContext {
                    epoch,
                    ..step.clone()
                });
                let values: Vec<f64> = epochs.map(|epoch| schedule.at(&epoch)).collect();
                Ok(Tensor::new(values, &Device::Cpu)?.to_dtype(DType::F32)?)
            }),
        ),
    ]
}
