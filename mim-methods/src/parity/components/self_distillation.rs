//! iBOT's loss over three steps with moving centres, and the schedules of its training.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use mim_core::objectives::{DistillationLogits, SelfDistillationConfig};
use mim_core::{Mask, ParamStore, PatchGrid, StepContext};
use serde::Deserialize;

use super::super::{Case, Result};
use super::{Given, schedules};

/// A temperature of `config.schedules`.
#[derive(Deserialize)]
struct Temperature {
    warmup: f64,
    #[serde(rename = "final")]
    end: f64,
    warmup_epochs: usize,
    epochs: usize,
    #[serde(default)]
    pred_start_epoch: usize,
}

fn settings(case: &Case) -> Result<SelfDistillationConfig> {
    let ends = (
        case.needs("warmup_teacher_temp")?,
        case.needs("teacher_temp")?,
    );
    let warmup = case.needs("warmup_teacher_temp_epochs")?;
    let temperature = SelfDistillationConfig::temperature(ends, 0, warmup);
    Ok(SelfDistillationConfig {
        student_temp: case.needs("student_temp")?,
        teacher_temp: temperature.clone(),
        teacher_patch_temp: temperature,
        center_momentum: case.needs("center_momentum")?,
        cls_weight: case.needs("lambda1")?,
        patch_weight: case.needs("lambda2")?,
    })
}

/// The mask and the logits of one call.
fn inputs(case: &Case, call: usize, device: &Device) -> Result<(Mask, DistillationLogits)> {
    let ([rows, cols], images): ([usize; 2], usize) =
        (case.needs("token_grid")?, case.needs("images")?);
    let globals: usize = case.needs("global_crops")?;
    let input = |name: &str| -> Result<Tensor> {
        let tensor = case.required(&format!("input.{call}.{name}"))?;
        Ok(tensor.to_device(device)?)
    };
    let masks = (0..globals).map(|crop| input(&format!("mask_{crop}")));
    let masks = Tensor::cat(&masks.collect::<Result<Vec<_>>>()?, 0)?;
    let masks = masks.to_dtype(DType::U8)?.flatten_all()?.to_vec1::<u8>()?;
    let mask = Mask::from_bits(PatchGrid::new(rows, cols), &masks)?;
    let ids = mask.flat(true, globals * images, device)?;
    let patches = |name: &str| -> Result<Tensor> { Ok(input(name)?.flatten(0, 1)?) };
    let hidden = |name: &str| -> Result<Tensor> { Ok(patches(name)?.index_select(&ids, 0)?) };
    let student = [input("student_cls")?, input("student_local_cls")?];
    let logits = DistillationLogits {
        globals,
        teacher_cls: input("teacher_cls")?,
        student_cls: Tensor::cat(&student, 0)?,
        teacher_patch: hidden("teacher_patch")?,
        student_patch: hidden("student_patch")?,
        patch_mean: patches("teacher_patch")?.mean_keepdim(0)?,
    };
    Ok((mask, logits))
}

pub(super) fn outputs(case: &Case, device: &Device) -> Result<Given> {
    // The crops themselves are recorded.
    case.informs(&["local_crops"]);
    let out_dim: usize = case.needs("out_dim")?;
    let store = ParamStore::teacher(device);
    let objective = settings(case)?.build(&store.root(), (out_dim, out_dim))?;
    let (epochs, calls): (usize, Vec<usize>) =
        (case.needs("epochs")?, case.needs("epoch_of_call")?);
    let mut given = Given::default();
    for (call, epoch) in calls.into_iter().enumerate() {
        let (mask, logits) = inputs(case, call, device)?;
        let step = StepContext {
            epoch,
            epochs,
            ..StepContext::new(0)
        };
        let terms = objective.loss(&logits, &mask, &step)?;
        for (name, value, weight) in terms.terms() {
            given.expect(&format!("{call}.loss_{name}"), (value * *weight)?);
        }
        given.expect(&format!("{call}.loss_loss"), terms.total()?);
        for (name, var) in store.vars() {
            given.expect(&format!("{call}.{name}"), var.as_tensor().copy()?);
        }
    }
    let tables: BTreeMap<String, serde_json::Value> = case.needs("schedules")?;
    schedules::dino(case, &tables, &mut given)?;
    for (name, table) in tables.iter().filter(|(name, _)| name.contains("_temp_")) {
        temperature(case, name, table, &mut given)?;
    }
    Ok(given)
}

fn temperature(
    case: &Case,
    name: &str,
    table: &serde_json::Value,
    given: &mut Given,
) -> Result<()> {
    let table: Temperature = serde_json::from_value(table.clone())
        .map_err(|error| case.bad(format!("schedule `{name}`: {error}")))?;
    let (ends, start) = ((table.warmup, table.end), table.pred_start_epoch);
    let schedule = SelfDistillationConfig::temperature(ends, start, table.warmup_epochs);
    let values = (0..table.epochs).map(|epoch| {
        schedule.at(&StepContext {
            epoch,
            epochs: table.epochs,
            ..StepContext::new(0)
        })
    });
    let values = Tensor::new(values.collect::<Vec<_>>(), &Device::Cpu)?;
    given.expect(name, values.to_dtype(DType::F32)?);
    Ok(())
}
