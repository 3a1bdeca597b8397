//! Schedules: learning rates, momenta and loss weights.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use mim_core::optim::LayerDecay;
use mim_core::schedule::stage_of;
use mim_core::{Per, Schedule, StepContext, Warmup};
use serde::Deserialize;

use super::super::{Case, Result};
use super::Given;

/// The position of a fractional epoch in a run.
fn at_epoch(epoch: f64, epochs: usize) -> StepContext {
    const STEPS: usize = 1_000_000_000;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an epoch is small and not negative"
    )]
    let (whole, iter) = (
        epoch as usize,
        (epoch.fract() * STEPS as f64).round() as usize,
    );
    StepContext {
        epoch: whole,
        epochs,
        iter,
        iters_per_epoch: STEPS,
        ..StepContext::new(0)
    }
}

/// The position of a step in a run.
fn at_step(step: usize, epochs: usize, steps_per_epoch: usize) -> StepContext {
    StepContext {
        epoch: step / steps_per_epoch,
        epochs,
        iter: step % steps_per_epoch,
        iters_per_epoch: steps_per_epoch,
        ..StepContext::new(0)
    }
}

/// The values of a schedule, in the data type of `expect.<name>`.
pub(super) fn values(
    case: &Case,
    name: &str,
    schedule: &Schedule,
    places: impl Iterator<Item = StepContext>,
) -> Result<Tensor> {
    let values: Vec<f64> = places.map(|place| schedule.at(&place)).collect();
    let recorded = case.required(&format!("expect.{name}"))?.dtype();
    Ok(Tensor::new(values, &Device::Cpu)?.to_dtype(recorded)?)
}

/// The steps of a whole run.
fn run(epochs: usize, steps_per_epoch: usize) -> impl Iterator<Item = StepContext> {
    (0..epochs * steps_per_epoch).map(move |step| at_step(step, epochs, steps_per_epoch))
}

/// The positions of recorded fractional epochs in a run.
pub(super) fn epochs(
    case: &Case,
    name: &str,
    epochs: usize,
) -> Result<impl Iterator<Item = StepContext> + use<>> {
    let all: Vec<f64> = case.flat(name)?;
    Ok(all.into_iter().map(move |epoch| at_epoch(epoch, epochs)))
}

/// The positions of recorded steps in a run.
pub(super) fn steps(
    case: &Case,
    name: &str,
    (epochs, steps_per_epoch): (usize, usize),
) -> Result<impl Iterator<Item = StepContext> + use<>> {
    let all = case
        .required(name)?
        .to_dtype(DType::U32)?
        .to_vec1::<u32>()?;
    let place = move |step| at_step(step as usize, epochs, steps_per_epoch);
    Ok(all.into_iter().map(place))
}

/// MAE's learning rate in pre-training, fine-tuning and probing.
pub(super) fn mae(case: &Case, _device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Settings {
        lr: f64,
        min_lr: f64,
        warmup_epochs: f64,
        epochs: usize,
    }
    let mut given = Given::default();
    for name in ["pretrain_mae", "finetune_base", "linprobe"] {
        let settings: Settings = case.needs(name)?;
        let schedule = Schedule::MaeCosine {
            peak: settings.lr,
            min: settings.min_lr,
            warmup_epochs: settings.warmup_epochs,
        };
        let places = epochs(case, &format!("input.{name}.epoch"), settings.epochs)?;
        let name = format!("{name}.lr");
        given.expect(&name, values(case, &name, &schedule, places)?);
    }
    Ok(given)
}

/// SimMIM's learning rates. A recorded value was set by one step for the next.
pub(super) fn simmim(case: &Case, _device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        name: String,
        epochs: usize,
        warmup: f64,
        lr: f64,
        warmup_lr: f64,
        min_lr: Option<f64>,
        steps: Option<Vec<usize>>,
        n: usize,
    }
    let mut given = Given::default();
    for name in ["multistep", "cosine"] {
        let settings: Settings = case.needs(name)?;
        let (peak, warmup_start) = (settings.lr, settings.warmup_lr);
        let warmup = Warmup::Epochs(settings.warmup);
        let schedule = match (settings.name.as_str(), settings.min_lr, settings.steps) {
            ("multistep", None, Some(milestones)) => Schedule::MultiStep {
                peak,
                gamma: 0.1,
                milestones,
                warmup_start,
                warmup,
            },
            ("cosine", Some(min), None) => Schedule::TimmCosine {
                peak,
                min,
                warmup_start,
                warmup,
                cycle_epochs: None,
                per: Per::Iter,
            },
            _ => return Err(case.bad(format!("settings of `{name}`")).into()),
        };
        let run = (settings.epochs, settings.n);
        let places = steps(case, &format!("input.{name}.update"), run)?;
        let next = places.map(|place| at_step(place.global_iter() + 1, run.0, run.1));
        let lr = format!("{name}.lr");
        given.expect(&lr, values(case, &lr, &schedule, next)?);
        let (first, name) = (at_step(0, run.0, run.1), format!("{name}.initial"));
        given.expect(
            &name,
            values(case, &name, &schedule, std::iter::once(first))?,
        );
    }
    Ok(given)
}

/// A table with one value per step, in BEiT's and DINO's spelling.
#[derive(Deserialize)]
struct Table {
    base: f64,
    #[serde(rename = "final")]
    end: f64,
    epochs: usize,
    iters_per_epoch: usize,
    #[serde(default)]
    warmup_epochs: f64,
    warmup_steps: Option<usize>,
    #[serde(default)]
    warmup_start: f64,
}

impl Table {
    fn schedule(&self) -> Schedule {
        Schedule::TableCosine {
            peak: self.base,
            min: self.end,
            warmup_start: self.warmup_start,
            warmup: match self.warmup_steps {
                Some(steps) => Warmup::Steps(steps),
                None => Warmup::Epochs(self.warmup_epochs),
            },
        }
    }
}

/// The tables of DINO that iBOT uses.
pub(super) fn dino(
    case: &Case,
    tables: &BTreeMap<String, serde_json::Value>,
    given: &mut Given,
) -> Result<()> {
    for name in ["lr", "weight_decay", "momentum"] {
        let table = tables.get(name).cloned().unwrap_or_default();
        let table: Table = serde_json::from_value(table)
            .map_err(|error| case.bad(format!("schedule `{name}`: {error}")))?;
        let places = run(table.epochs, table.iters_per_epoch);
        given.expect(name, values(case, name, &table.schedule(), places)?);
    }
    Ok(())
}

/// A decay of learning rates of a case.
#[derive(Deserialize)]
struct Decay {
    depth: usize,
    layer_decay: f64,
}

/// BEiT's learning rates, and their layer-wise decay.
pub(super) fn beit(case: &Case, _device: &Device) -> Result<Given> {
    let mut given = Given::default();
    let recorded: BTreeMap<String, serde_json::Value> = case.values()?;
    for name in ["lr", "lr_warmup_steps5"] {
        let (table, theirs): (Table, _) = (case.needs(name)?, recorded.get(name).cloned());
        let theirs: Vec<f64> = serde_json::from_value(theirs.unwrap_or_default())
            .map_err(|error| case.bad(format!("values of `{name}`: {error}")))?;
        let places = run(table.epochs, table.iters_per_epoch);
        let ours: Vec<f64> = places.map(|place| table.schedule().at(&place)).collect();
        given.numbers(&format!("values.{name}"), &ours, &theirs)?;
    }
    let settings: BTreeMap<String, Decay> = case.needs("layer_decay_scales")?;
    let theirs = recorded.get("layer_decay_scales").cloned();
    let theirs: BTreeMap<String, Vec<f64>> = serde_json::from_value(theirs.unwrap_or_default())
        .map_err(|error| case.bad(format!("values of `layer_decay_scales`: {error}")))?;
    for (name, Decay { depth, layer_decay }) in &settings {
        let ours = LayerDecay::new(*layer_decay, &[*depth]);
        let theirs = theirs.get(name).cloned().unwrap_or_default();
        let name = format!("values.layer_decay_scales.{name}");
        given.numbers(&name, &ours.scales(), &theirs)?;
    }
    Ok(given)
}

/// EVA's learning rate.
pub(super) fn eva(case: &Case, _device: &Device) -> Result<Given> {
    let schedule = Schedule::TableCosine {
        peak: case.needs("peak_lr")?,
        min: case.needs("min_lr")?,
        warmup_start: case.needs("warmup_start")?,
        warmup: Warmup::Epochs(case.needs("warmup_epochs")?),
    };
    let places = run(case.needs("epochs")?, case.needs("steps_per_epoch")?);
    let mut given = Given::default();
    given.expect("lr", values(case, "lr", &schedule, places)?);
    Ok(given)
}

/// dBOT's learning rate, which starts again at each stage, and the stages.
pub(super) fn dbot(case: &Case, _device: &Device) -> Result<Given> {
    // A test of dBOT checks what a stage keeps.
    case.informs(&["kept_by_stage_reinit"]);
    let mut starts: Vec<usize> = case.needs("stage_epochs")?;
    let end = starts.pop().unwrap_or_default();
    let stage = |place: StepContext| stage_of(&starts, place.epoch) as i64;
    let stages: Vec<i64> = epochs(case, "input.epoch", end)?.map(stage).collect();
    let schedule = Schedule::Staged {
        starts,
        inner: Box::new(Schedule::MaeCosine {
            peak: case.needs("peak_lr")?,
            min: case.needs("min_lr")?,
            warmup_epochs: case.needs("warmup_epochs")?,
        }),
    };
    let mut given = Given::default();
    let places = epochs(case, "input.epoch", end)?;
    given.expect("lr", values(case, "lr", &schedule, places)?);
    given.expect("stage_index", Tensor::new(stages, &Device::Cpu)?);
    Ok(given)
}
