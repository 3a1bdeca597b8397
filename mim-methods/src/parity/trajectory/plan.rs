//! The schedules and the optimizer of a trajectory.

use mim_core::StepContext;
use mim_core::optim::Freeze;
use mim_core::schedule::{Per, Schedule, Warmup};
use mim_core::train::Stepper;
use serde::Deserialize;

use super::super::optimizer::Optimizer;
use super::super::stores::State;
use super::super::{Case, Problem, Result};

/// How the steps of a trajectory are taken.
pub(super) struct Plan {
    /// Steps recorded.
    pub(super) steps: usize,
    epochs: usize,
    steps_per_epoch: usize,
    pub(super) lr: Schedule,
    pub(super) weight_decay: Option<Schedule>,
    freeze: Vec<Freeze>,
    optimizer: Optimizer,
}

/// `config.schedule` of a trajectory.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Absent: a table, as in iBOT.
    kind: Option<String>,
    peak_lr: f64,
    #[serde(default)]
    min_lr: f64,
    warmup_epochs: f64,
    epochs: usize,
    steps_per_epoch: usize,
    weight_decay: f64,
    weight_decay_end: Option<f64>,
    warmup_lr: Option<f64>,
    #[serde(default)]
    milestones: Vec<usize>,
    gamma: Option<f64>,
    start_factor: Option<f64>,
    momentum_teacher: Option<f64>,
    freeze_last_layer: Option<usize>,
}

/// `config.ema_schedule` of a trajectory.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Momentum {
    kind: String,
    base: f64,
    #[serde(rename = "final")]
    end: Option<f64>,
}

impl Settings {
    fn lr(&self) -> Result<Schedule> {
        let (peak, min) = (self.peak_lr, self.min_lr);
        let table = |min: f64, warmup_start: f64| Schedule::TableCosine {
            peak,
            min,
            warmup_start,
            warmup: Warmup::Epochs(self.warmup_epochs),
        };
        let kind = self.kind.as_deref();
        match (kind, self.warmup_lr, self.gamma, self.start_factor) {
            (Some("warmup_cosine_fractional_epoch"), None, None, None) => Ok(Schedule::MaeCosine {
                peak,
                min,
                warmup_epochs: self.warmup_epochs,
            }),
            (Some("multistep"), Some(warmup_start), Some(gamma), None) => Ok(Schedule::MultiStep {
                peak,
                gamma,
                milestones: self.milestones.clone(),
                warmup_start,
                warmup: Warmup::Epochs(self.warmup_epochs),
            }),
            (Some("warmup_cosine") | None, None, None, None) => Ok(table(min, 0.)),
            (Some("linear_factor_then_cosine"), None, None, Some(factor)) => {
                Ok(table(min, peak * factor))
            }
            _ => Err(Problem::unknown(format!(
                "the learning rate schedule {kind:?} with these settings"
            ))),
        }
    }

    fn weight_decay(&self) -> Option<Schedule> {
        self.weight_decay_end.map(|min| Schedule::TableCosine {
            peak: self.weight_decay,
            min,
            warmup_start: 0.,
            warmup: Warmup::default(),
        })
    }
}

fn ema_schedule(case: &Case) -> Result<Momentum> {
    let none = || case.bad("there is no setting `ema_schedule`".to_owned());
    Ok(case.setting("ema_schedule")?.ok_or_else(none)?)
}

/// The momentum of a teacher, a half cosine.
pub(crate) fn momentum(case: &Case) -> Result<Schedule> {
    let Momentum { kind, base, end } = ema_schedule(case)?;
    match (kind.as_str(), end) {
        ("cosine" | "cosine_fractional_epoch", Some(end)) => Ok(Schedule::Cosine {
            start: base,
            end,
            per: Per::Iter,
        }),
        _ => Err(Problem::unknown(format!("the momentum schedule `{kind}`"))),
    }
}

/// Checks the momentum of a teacher, for methods with only one schedule.
pub(crate) fn fixed_momentum(case: &Case, schedule: &str, start: f64) -> Result<()> {
    let Momentum { kind, base, end } = ema_schedule(case)?;
    match kind == schedule && base.to_bits() == start.to_bits() && end.is_none() {
        true => Ok(()),
        false => Err(Problem::unknown(format!(
            "the momentum schedule `{kind}` from {base}"
        ))),
    }
}

impl Plan {
    pub(super) fn read(case: &Case) -> Result<Self> {
        let none = |key: &str| case.bad(format!("there is no setting `{key}`"));
        let settings: Settings = case.setting("schedule")?.ok_or_else(|| none("schedule"))?;
        let optimizer: Optimizer = case
            .setting("optimizer")?
            .ok_or_else(|| none("optimizer"))?;
        let steps = case.required("expect.loss")?.elem_count();
        if steps > settings.epochs * settings.steps_per_epoch {
            let what = format!("{steps} steps are more than its schedule has");
            return Err(case.bad(what).into());
        }
        if case.setting_or("epochs", settings.epochs)? != settings.epochs {
            let what = "`epochs` differs from that of `schedule`";
            return Err(case.bad(what.to_owned()).into());
        }
        for (what, first, second) in [
            ("learning rates", settings.peak_lr, optimizer.lr),
            (
                "weight decays",
                settings.weight_decay,
                optimizer.weight_decay,
            ),
        ] {
            if first.to_bits() != second.to_bits() {
                let what = format!("{what} of schedule and optimizer differ: {first}, {second}");
                return Err(case.bad(what).into());
            }
        }
        if let Some(start) = settings.momentum_teacher
            && ema_schedule(case)?.base.to_bits() != start.to_bits()
        {
            let what = format!("`ema_schedule` does not start at momentum_teacher = {start}");
            return Err(case.bad(what).into());
        }
        if !optimizer.withheld.is_empty() {
            let what = "a trajectory with withheld gradients";
            return Err(Problem::unknown(what));
        }
        let freeze = settings.freeze_last_layer.map(|until_epoch| Freeze {
            contains: "last_layer".to_owned(),
            until_epoch,
        });
        Ok(Self {
            steps,
            epochs: settings.epochs,
            steps_per_epoch: settings.steps_per_epoch,
            lr: settings.lr()?,
            weight_decay: settings.weight_decay(),
            freeze: freeze.into_iter().collect(),
            optimizer,
        })
    }

    /// The position of step `index` in the run.
    pub(super) fn step(&self, index: usize) -> StepContext {
        StepContext {
            epoch: index / self.steps_per_epoch,
            epochs: self.epochs,
            iter: index % self.steps_per_epoch,
            iters_per_epoch: self.steps_per_epoch,
            ..StepContext::new(0)
        }
    }

    /// The end of the epoch, if `step` is its last one.
    pub(super) fn end_of_epoch(&self, step: &StepContext) -> Option<StepContext> {
        let iter = step.iter + 1;
        (iter == self.steps_per_epoch).then(|| StepContext {
            iter,
            ..step.clone()
        })
    }

    pub(super) fn stepper(&self, state: State<'_>) -> Result<Stepper> {
        let config = self.optimizer.config(state)?;
        let stepper = Stepper::new(state.method, config, self.optimizer.clip()?)?;
        Ok(stepper.freeze(self.freeze.clone()))
    }
}
