//! Objectives: losses, and their gradients for the prediction.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use mim_core::objectives::{CosineConfig, InfoNceConfig, RegressionConfig, UniGradConfig};
use mim_core::{Mask, Objective, PatchGrid, Prediction, Rows, StepContext, Target, ops};
use mim_targets::{PatchNorm, PixelTargetConfig, standardize};
use serde::Deserialize;

use super::super::{Case, Recorded, Result};
use super::{Given, processes};

/// One evaluation of an objective.
struct Call<'a> {
    objective: &'a dyn Objective,
    prediction: &'a Tensor,
    rows: Rows,
    target: Target,
    mask: &'a Mask,
    step: StepContext,
}

/// The output of an objective: losses by name, their sum, and its gradient.
struct Outcome {
    terms: Vec<(String, Tensor)>,
    loss: Tensor,
    gradient: Tensor,
}

impl Call<'_> {
    /// The loss times `weight`, and its gradient with respect to the prediction after `before`, which has no
    /// parameters.
    fn run(
        &self,
        weight: f64,
        before: impl FnOnce(&Tensor) -> Result<Tensor>,
        case: &Case,
    ) -> Result<Outcome> {
        let prediction = Var::from_tensor(self.prediction)?;
        let values = Prediction {
            values: before(prediction.as_tensor())?,
            rows: self.rows,
            grid: self.mask.grid(),
        };
        let terms = self
            .objective
            .loss(&values, &self.target, self.mask, &self.step)?;
        let loss = (terms.total()? * weight)?;
        let gradient = loss.backward()?.get(&prediction).cloned();
        let none = || case.bad("the objective gives no gradient".to_owned());
        let terms = terms.terms().iter();
        Ok(Outcome {
            terms: terms
                .map(|(name, value, _)| (name.clone(), value.clone()))
                .collect(),
            loss,
            gradient: gradient.ok_or_else(none)?,
        })
    }
}

fn as_is(xs: &Tensor) -> Result<Tensor> {
    Ok(xs.clone())
}

/// A mask `[images, tokens]` on a square grid.
fn mask(case: &Case, name: &str) -> Result<Mask> {
    let bits: Vec<u8> = case.flat(name)?;
    let side = case.required(name)?.flatten_from(1)?.dim(1)?.isqrt();
    Ok(Mask::from_bits(PatchGrid::new(side, side), &bits)?)
}

/// dBOT's smooth L1, which includes the class token.
pub(super) fn dbot(case: &Case, device: &Device) -> Result<Given> {
    let tokens = case.required("input.mask")?.dim(1)? - 1;
    let bits = case.required("input.mask")?.narrow(1, 1, tokens)?;
    let bits = bits.to_dtype(DType::U8)?.flatten_all()?.to_vec1::<u8>()?;
    let side = tokens.isqrt();
    let mask = Mask::from_bits(PatchGrid::new(side, side), &bits)?;
    let raw = case.on("input.target", device)?;
    let normed = standardize(&raw, case.needs("target_norm_eps")?)?;
    let objective = RegressionConfig::smooth_l1(case.needs("beta")?).build()?;
    let mut given = Given::default();
    for (name, target) in [("raw", raw), ("normed", normed)] {
        let target = Target {
            image: Some(target.narrow(1, 0, 1)?.squeeze(1)?),
            ..Target::patches(target.narrow(1, 1, tokens)?)
        };
        let call = Call {
            objective: &objective,
            prediction: &case.on("input.pred", device)?,
            rows: Rows::ClsAndPatches,
            target,
            mask: &mask,
            step: StepContext::new(0),
        };
        let outcome = call.run(1., as_is, case)?;
        given.expect(&format!("loss_{name}"), outcome.loss);
        given.grad(&format!("pred_{name}"), outcome.gradient);
    }
    Ok(given)
}

/// EVA's cosine, each length at least `eps`.
pub(super) fn eva(case: &Case, device: &Device) -> Result<Given> {
    let config = CosineConfig {
        eps: case.needs("eps")?,
        ..CosineConfig::default()
    };
    let objective = config.build()?;
    let (prediction, target) = (
        case.on("input.pred", device)?,
        case.on("input.target", device)?,
    );
    let run = |first: usize, count: usize| -> Result<Outcome> {
        let mask = Mask::from_bits(PatchGrid::new(1, count), &vec![1; count])?;
        let call = Call {
            objective: &objective,
            prediction: &prediction.narrow(0, first, count)?,
            rows: Rows::Masked,
            target: Target::patches(target.narrow(0, first, count)?.unsqueeze(0)?),
            mask: &mask,
            step: StepContext::new(0),
        };
        call.run(1., as_is, case)
    };
    let rows = prediction.dim(0)?;
    let all = run(0, rows)?;
    let cosines = (0..rows).map(|row| Ok(run(row, 1)?.loss.neg()?));
    let mut given = Given::default();
    given.expect(
        "cosine",
        Tensor::stack(&cosines.collect::<Result<Vec<_>>>()?, 0)?,
    );
    given.expect("loss", all.loss);
    given.grad("pred", all.gradient);
    Ok(given)
}

/// SIM's dense loss, in one process and in the first of two.
pub(super) fn uni_grad(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Settings {
        neg_weight: f64,
        world_size: usize,
        online_ln: bool,
    }
    let eps: f64 = case.needs("layer_norm_eps")?;
    let normed =
        |name: &str| -> Result<Tensor> { Ok(ops::normalize(&case.on(name, device)?, eps)?) };
    let mut given = Given::default();
    for (name, settings) in case.needs::<BTreeMap<String, Settings>>("cases")? {
        let input = |part: &str| format!("input.{name}.{part}");
        let trace = Arc::new(Recorded::default());
        let mut step = StepContext {
            trace: Some(trace.clone()),
            ..StepContext::new(0)
        };
        if settings.world_size == 2 {
            let other = normed(&input("target_other_rank"))?.flatten(0, 1)?;
            let moment = other.t()?.contiguous()?.matmul(&other)?;
            let others = vec![(moment / other.dim(0)? as f64)?];
            step.comm = Arc::new(processes::Recorded { rank: 0, others });
        }
        let prediction = case.on(&input("pred"), device)?;
        let (images, tokens, _) = prediction.dims3()?;
        let mask = Mask::from_bits(PatchGrid::new(1, tokens), &vec![0; images * tokens])?;
        let config = UniGradConfig {
            neg_weight: settings.neg_weight,
        };
        let call = Call {
            objective: &config.build()?,
            prediction: &prediction,
            rows: Rows::Patches,
            target: Target::patches(normed(&input("target"))?),
            mask: &mask,
            step,
        };
        let before = |xs: &Tensor| match settings.online_ln {
            true => Ok(ops::normalize(xs, eps)?),
            false => as_is(xs),
        };
        let outcome = call.run(1., before, case)?;
        for (term, value) in outcome.terms {
            given.expect(&format!("{name}.{term}"), value);
        }
        given.expect(&format!("{name}.loss"), outcome.loss);
        given.expect(&format!("{name}.correlation"), trace.get("correlation")?);
        given.grad(&format!("{name}.pred"), outcome.gradient);
    }
    Ok(given)
}

/// `config.cases.<name>` of CMAE's losses.
#[derive(Deserialize)]
struct Contrast {
    world_size: usize,
    rank: usize,
    temperature: f64,
    ct_weight: f64,
    rc_weight: f64,
}

/// CMAE's contrast, in one process and in one of three, and its reconstruction.
pub(super) fn cmae(case: &Case, device: &Device) -> Result<Given> {
    let mut given = Given::default();
    let eps: f64 = case.needs("pix_norm_eps")?;
    for (name, settings) in case.needs::<BTreeMap<String, Contrast>>("cases")? {
        let mask = mask(case, &format!("input.{name}.mask"))?;
        contrast(case, (&name, &settings), &mask, device, &mut given)?;
        let images = case.on(&format!("input.{name}.img"), device)?;
        let target = PixelTargetConfig {
            patch_norm: PatchNorm::Patch { eps },
            ..PixelTargetConfig::default()
        };
        let target = target.build()?.target(&images, mask.grid())?;
        case.fixed("patch_size", images.dim(2)? / mask.grid().rows)?;
        let mse = RegressionConfig::default().build()?;
        let call = Call {
            objective: &mse,
            prediction: &case.on(&format!("input.{name}.pred_pixel"), device)?,
            rows: Rows::Patches,
            target: Target::patches(target.clone()),
            mask: &mask,
            step: StepContext::new(0),
        };
        let outcome = call.run(settings.rc_weight, as_is, case)?;
        given.expect(&format!("{name}.target"), target);
        given.expect(&format!("{name}.loss_rc"), outcome.loss);
        given.grad(&format!("{name}.pred_pixel"), outcome.gradient);
    }
    Ok(given)
}

fn contrast(
    case: &Case,
    (name, settings): (&str, &Contrast),
    mask: &Mask,
    device: &Device,
    given: &mut Given,
) -> Result<()> {
    let trace = Arc::new(Recorded::default());
    let mut step = StepContext {
        trace: Some(trace.clone()),
        ..StepContext::new(0)
    };
    if settings.world_size > 1 {
        let others = case.on(&format!("input.{name}.proj_t_others"), device)?;
        let others = (0..others.dim(0)?).map(|index| others.get(index));
        step.comm = Arc::new(processes::Recorded {
            rank: settings.rank,
            others: others.collect::<candle_core::Result<_>>()?,
        });
    }
    let config = InfoNceConfig {
        temperature: settings.temperature,
        ..InfoNceConfig::default()
    };
    let call = Call {
        objective: &config.build()?,
        prediction: &case.on(&format!("input.{name}.pred"), device)?,
        rows: Rows::Image,
        target: Target::image(case.on(&format!("input.{name}.proj_t"), device)?),
        mask,
        step,
    };
    let outcome = call.run(settings.ct_weight, as_is, case)?;
    given.expect(&format!("{name}.loss_ct"), outcome.loss);
    given.expect(&format!("{name}.score"), trace.get("score")?);
    given.grad(&format!("{name}.pred"), outcome.gradient);
    // The loss depends on it, and is compared.
    given.passes_over(&format!("{name}.label"));
    Ok(())
}
