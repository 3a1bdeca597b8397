//! Trajectories: optimizer steps in a row with recorded draws, through the stepper of the training engine.
//!
//! Recorded values are never fed back: from the recorded start, schedules, clipping, optimizer and teachers run on
//! their own. Curves (losses, gradient norms, scheduled numbers), snapshots of all weights, and the features of the
//! trained encoder are compared.

mod curves;
mod features;
mod plan;
mod snapshots;

use candle_core::Device;
use mim_core::ops::Precision;
use mim_core::schedule::Schedule;
use mim_core::train::Stepper;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method};

pub(crate) use features::{Features, Shape};
pub(crate) use plan::{fixed_momentum, momentum};

use self::curves::Curves;
use self::plan::Plan;
use self::snapshots::Snapshots;
use super::compare::Worst;
use super::stores::State;
use super::{Case, Overrides, Problem, Report, Result};
use crate::registry;

/// Makes the batch and the masks of the case of one step ([`Case::at_step`]).
pub(crate) type Inputs = Box<dyn Fn(&Case, &Device) -> Result<(Batch, Mask)>>;

/// What a trajectory needs to know about its method.
pub(crate) struct Trajectory {
    /// The batch and the masks of a step.
    pub(super) inputs: Inputs,
    /// Recorded curves (without `expect.`) other than `loss`, `grad_norm`, `lr` and `weight_decay`.
    pub(super) curves: Vec<(&'static str, Curve)>,
    /// Recorded features (without `expect.`).
    pub(super) features: Vec<(&'static str, Features)>,
    /// Names in snapshots that differ from those of `source`: (recorded, exported).
    pub(super) renamed: &'static [(&'static str, &'static str)],
    /// Prefixes of names that our method lacks: parts of a teacher that are never run.
    pub(super) absent: &'static [&'static str],
}

/// A prepared trajectory.
struct Replay {
    method: Box<dyn Method>,
    source: Source,
    own: Trajectory,
}

/// Where to find the numbers of a curve.
pub(crate) enum Curve {
    /// A loss term, times a factor that the recorded one includes.
    Term(&'static str, f64),
    /// The value of one of the method's schedules.
    Value(Schedule),
}

/// Trains from the recorded start and compares every step.
pub(super) fn run(case: &Case, device: &Device, overrides: Overrides) -> Result<Report> {
    let unknown = || Problem::unknown(format!("a trajectory of {}", case.method()));
    let entry = registry::method(case.method()).map_err(|_| unknown())?;
    let setup = entry.parity(case, device)?;
    let mut replay = Replay {
        method: setup.method,
        source: setup.source,
        own: setup.trajectory.ok_or_else(unknown)?,
    };
    let plan = Plan::read(case)?;
    let tolerance = match overrides.rtol {
        Some(rtol) => case.drift()?.clone().with(rtol),
        None => case.drift()?.clone(),
    };
    replay.state(case).load()?;
    let snapshots = Snapshots::new(case, &tolerance, replay.state(case))?;
    let mut stepper = plan.stepper(replay.state(case))?;
    if overrides.losses_only {
        stepper = stepper.precision(Precision::Bf16);
    }
    let (mut curves, mut step) = (Curves::default(), Worst::default());
    for index in 0..plan.steps {
        replay.step(case, &plan, index, (&mut stepper, &mut curves))?;
        if !overrides.losses_only {
            snapshots.compare(index + 1, &replay, &mut step)?;
        }
    }
    let (mut forward, grad) = curves.compare(case, &tolerance, overrides.losses_only)?;
    if !overrides.losses_only {
        let (batch, _) = (replay.own.inputs)(&case.at_step(0)?, device)?;
        for (name, _) in case.group("expect.features").iter() {
            let name = format!("features{name}");
            let Some((_, features)) = replay.own.features.iter().find(|(known, _)| *known == name)
            else {
                forward.fail(&name, "mim has no value to compare with it");
                continue;
            };
            let ours = features.of(replay.state(case), &batch)?;
            features::compare((case, &name), &ours, tolerance.features_rtol, &mut forward)?;
        }
    }
    Ok(Report::of(case.name(), forward, grad, step))
}

impl Replay {
    fn state<'a>(&'a self, case: &'a Case) -> State<'a> {
        State {
            case,
            method: self.method.as_ref(),
            source: &self.source,
        }
    }

    /// One optimizer step, as in the training engine.
    fn step(
        &mut self,
        case: &Case,
        plan: &Plan,
        index: usize,
        (stepper, curves): (&mut Stepper, &mut Curves),
    ) -> Result<()> {
        let step = plan.step(index);
        let device = self.method.stores()[0].1.device().clone();
        let (batch, mask) = (self.own.inputs)(&case.at_step(index)?, &device)?;
        self.method.override_mask(mask)?;
        if let Some(schedule) = &plan.weight_decay {
            let weight_decay = schedule.at(&step);
            stepper.optimizer_mut().set_weight_decay(weight_decay);
            curves.add("weight_decay", weight_decay);
        }
        let lr = plan.lr.at(&step);
        let report = stepper.step(self.method.as_ref(), &[batch], &step, lr)?;
        curves.add("loss", report.loss);
        curves.add("grad_norm", report.grad_norm);
        curves.add("lr", lr);
        for (name, curve) in &self.own.curves {
            let value = match curve {
                Curve::Value(schedule) => schedule.at(&step),
                Curve::Term(term, weight) => {
                    let found = report.terms.iter().find(|(known, _)| known == term);
                    weight * found.map_or(f64::NAN, |(_, value)| *value)
                }
            };
            curves.add(name, value);
        }
        if let Some(end) = plan.end_of_epoch(&step) {
            self.method.end_epoch(&end)?;
        }
        Ok(())
    }
}
