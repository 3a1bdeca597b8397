//! Momenta and learning rates in the training of BootMAE, SIM and CMAE.

use candle_core::Device;
use mim_core::{Per, Point, Schedule, StepContext, Warmup};
use serde::Deserialize;

use super::super::{Case, Result};
use super::Given;
use super::schedules::{epochs, steps, values};

#[derive(Deserialize)]
struct BootMae {
    ema_start: f64,
    feature_weight: f64,
    epochs: usize,
    iters_per_epoch: usize,
    warmup_epochs: f64,
    lr: f64,
    min_lr: f64,
}

#[derive(Deserialize)]
struct Sim {
    epochs: usize,
    warmup_epochs: f64,
    lr: f64,
    min_lr: f64,
    momentum_base: f64,
    momentum_end: f64,
}

#[derive(Deserialize)]
struct Ends {
    base: f64,
    end: f64,
}

#[derive(Deserialize)]
struct Cmae {
    epochs: usize,
    iters_per_epoch: usize,
    warmup_epochs: f64,
    lr: f64,
    warmup_start_factor: f64,
    min_lr: f64,
    momentum_released: Ends,
    momentum_end1: Ends,
}

/// What moves in BootMAE, SIM and CMAE.
pub(super) fn outputs(case: &Case, _device: &Device) -> Result<Given> {
    let mut given = Given::default();
    bootmae(case, &mut given)?;
    sim(case, &mut given)?;
    cmae(case, &mut given)?;
    Ok(given)
}

fn bootmae(case: &Case, given: &mut Given) -> Result<()> {
    let settings: BootMae = case.needs("bootmae")?;
    let momentum = |last: &[(f64, f64)]| {
        let points = [(0., settings.ema_start), (100., 0.9999)];
        let points = points.iter().chain(last);
        Schedule::Piecewise {
            points: points
                .map(|&(epoch, value)| Point { epoch, value })
                .collect(),
            per: Per::Epoch,
        }
    };
    let weight = Schedule::Ramp {
        value: settings.feature_weight,
        factor: 4.,
    };
    for (name, schedule) in [
        ("bootmae.ema_static", momentum(&[])),
        ("bootmae.ema_dynamic", momentum(&[(400., 0.999_99)])),
        ("bootmae.feature_weight", weight),
    ] {
        let places = epochs(case, "input.bootmae.epoch", settings.epochs)?;
        // They are constant within an epoch.
        let places = places.map(|place| StepContext {
            iter: place.iters_per_epoch / 2,
            ..place
        });
        given.expect(name, values(case, name, &schedule, places)?);
    }
    let lr = Schedule::TableCosine {
        peak: settings.lr,
        min: settings.min_lr,
        warmup_start: 0.,
        warmup: Warmup::Epochs(settings.warmup_epochs),
    };
    let run = (settings.epochs, settings.iters_per_epoch);
    let places = steps(case, "input.bootmae.iter", run)?;
    given.expect("bootmae.lr", values(case, "bootmae.lr", &lr, places)?);
    Ok(())
}

fn sim(case: &Case, given: &mut Given) -> Result<()> {
    let settings: Sim = case.needs("sim")?;
    let lr = Schedule::MaeCosine {
        peak: settings.lr,
        min: settings.min_lr,
        warmup_epochs: settings.warmup_epochs,
    };
    let momentum = Schedule::Cosine {
        start: settings.momentum_base,
        end: settings.momentum_end,
        per: Per::Iter,
    };
    for (name, schedule) in [("sim.lr", lr), ("sim.momentum", momentum)] {
        let places = epochs(case, "input.sim.epoch", settings.epochs)?;
        given.expect(name, values(case, name, &schedule, places)?);
    }
    Ok(())
}

fn cmae(case: &Case, given: &mut Given) -> Result<()> {
    let settings: Cmae = case.needs("cmae")?;
    let momentum = |ends: &Ends| Schedule::Cosine {
        start: ends.base,
        end: ends.end,
        per: Per::Iter,
    };
    let lr = Schedule::TableCosine {
        peak: settings.lr,
        min: settings.min_lr,
        warmup_start: settings.lr * settings.warmup_start_factor,
        warmup: Warmup::Epochs(settings.warmup_epochs),
    };
    for (name, schedule) in [
        ("cmae.lr", lr),
        (
            "cmae.momentum_released",
            momentum(&settings.momentum_released),
        ),
        ("cmae.momentum_end1", momentum(&settings.momentum_end1)),
    ] {
        let run = (settings.epochs, settings.iters_per_epoch);
        let places = steps(case, "input.cmae.iter", run)?;
        given.expect(name, values(case, name, &schedule, places)?);
    }
    Ok(())
}
