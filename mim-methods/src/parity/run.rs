//! Running a case: forward under a trace, backward, one optimizer step, all compared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use mim_core::ops::{Precision, with_precision};
use mim_core::optim::Gradients;
use mim_core::weights::Source;
use mim_core::{Batch, Error, Method, StepContext, TraceSink};

use super::compare::{Rule, Worst};
use super::optimizer::Optimizer;
use super::report::{Report, Verdict};
use super::rounding::{self, Rounding};
use super::stores::State;
use super::trajectory::{self, Trajectory};
use super::{Case, Outputs, Problem, Result, Tolerance, components};
use crate::registry;

/// How to find our value for a recorded output.
pub type Extract = Box<dyn Fn(&Recorded) -> Result<Tensor>>;

/// A prepared case: the method of its config, its inputs, and how to find its outputs.
pub struct Setup {
    /// The method, with the case's masks.
    pub method: Box<dyn Method>,
    /// The naming of the case's weights.
    pub source: Source,
    /// The position of the case's step in the run, on which schedules depend.
    pub step: StepContext,
    /// Gradients whose recorded values are only rounding errors.
    pub rounding: Rounding,
    /// The case's inputs.
    pub batch: Batch,
    /// For each recorded output (without `expect.`), how to find ours. `loss` and `grad_norm` need no entry.
    pub outputs: Vec<(String, Extract)>,
    /// Of a trajectory.
    pub(crate) trajectory: Option<Trajectory>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("method", &self.method.name())
            .field("source", &self.source.name())
            .finish_non_exhaustive()
    }
}

/// Tolerances from the command line, which replace the case's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// Relative tolerance of outputs and gradients.
    pub rtol: Option<f64>,
    /// Absolute tolerance of outputs and gradients.
    pub atol: Option<f64>,
    /// Compare only losses, for a computation in bf16.
    pub losses_only: bool,
    /// Type of the operands of matrix products.
    pub precision: Precision,
}

/// The named intermediates of a forward pass.
#[derive(Debug, Default)]
pub struct Recorded(Mutex<BTreeMap<String, Tensor>>);

impl Recorded {
    /// The intermediate called `name`.
    ///
    /// # Errors
    ///
    /// If the forward pass traced no such name.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let error = || {
            Error::unsupported(
                format!("reading `{name}`"),
                "the forward pass gave no such output",
                "check the outputs of the method's golden cases",
            )
        };
        Ok(all.get(name).cloned().ok_or_else(error)?)
    }
}

impl TraceSink for Recorded {
    fn record(&self, name: &str, value: &Tensor) -> mim_core::Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.to_owned(), value.detach());
        Ok(())
    }
}

/// Runs a case of the registry. Errors become failures with their reason.
pub fn run(case: &Case, device: &Device, overrides: Overrides) -> Report {
    run_with(case, device, overrides, &[])
}

/// As [`run`], with further components by the `method` of their cases.
pub fn run_with(
    case: &Case,
    device: &Device,
    overrides: Overrides,
    more: &[(&str, Outputs)],
) -> Report {
    let run = |case: &Case| {
        let work = || compared(case, device, overrides, more);
        with_precision(overrides.precision, work)
    };
    let (first, second) = case.variants();
    let compared = run(&first).and_then(|report| match second {
        Some(second) => Ok(report.and(run(&second)?)),
        None => Ok(report),
    });
    match compared {
        Ok(report) => report,
        Err(problem @ Problem::Unknown(_)) => {
            Report::without_numbers(case.name(), Verdict::Unsupported, problem.to_string())
        }
        Err(error) => Report::without_numbers(case.name(), Verdict::Fail, error.to_string()),
    }
}

fn compared(
    case: &Case,
    device: &Device,
    overrides: Overrides,
    more: &[(&str, Outputs)],
) -> Result<Report> {
    let mut tolerance = case.tolerance().clone();
    if let Some(rtol) = overrides.rtol {
        (tolerance.rtol, tolerance.grad_rtol) = (rtol, rtol);
    }
    if let Some(atol) = overrides.atol {
        (tolerance.atol, tolerance.grad_atol) = (atol, atol);
    }
    let losses_only = overrides.losses_only;
    let network = |setup| {
        let mut run = Run {
            case,
            setup,
            tolerance: tolerance.clone(),
            losses_only,
            device,
        };
        run.all()
    };
    let method = case.method();
    let report = match (case.kind(), components::find(method, more)) {
        ("method", _) => {
            let entry = registry::method(trained(case))
                .map_err(|_| Problem::unknown(format!("the method {method}")))?;
            network(entry.parity(case, device)?)?
        }
        ("trajectory", _) => trajectory::run(case, device, overrides)?,
        (_, Some(outputs)) => components::run(case, outputs, &tolerance, device)?,
        (kind, None) => match components::network(method) {
            Some(setup) => network(setup(case, device)?)?,
            None => return Err(Problem::unknown(format!("cases of {method} ({kind})"))),
        },
    };
    // The optimizer's settings are not read if only losses are compared.
    if report.verdict == Verdict::Pass && !losses_only {
        case.all_read()?;
    }
    Ok(report)
}

/// The method that a case belongs to: cases of PeCo are of its first stage.
fn trained(case: &Case) -> &str {
    match case.method() {
        "peco" => "peco_tokenizer",
        method => method,
    }
}

/// How recorded values are compared: relative and absolute tolerance, and what is ignored.
pub(super) fn rule((rtol, atol): (f64, f64), skip: &dyn Fn(usize) -> bool) -> Rule<'_> {
    Rule {
        rtol,
        atol,
        floor: 1e-6,
        skip,
    }
}

pub(super) struct Run<'a> {
    pub(super) case: &'a Case,
    pub(super) setup: Setup,
    pub(super) tolerance: Tolerance,
    losses_only: bool,
    pub(super) device: &'a Device,
}

impl Run<'_> {
    fn all(&mut self) -> Result<Report> {
        self.state().load()?;
        let recorded = Arc::new(Recorded::default());
        let step = StepContext {
            trace: Some(recorded.clone()),
            ..self.setup.step.clone()
        };
        self.setup.method.before_step(&step)?;
        let loss = self
            .setup
            .method
            .forward(&self.setup.batch, &step)?
            .total()?;
        let mut gradients = Gradients::new(self.state().student()?.trainable());
        gradients.backward(&loss)?;
        let buffers = self.state().buffers()?;
        let forward = self.forward(&recorded, &gradients)?;
        if self.losses_only {
            let (grad, stepped) = (Worst::default(), Worst::default());
            return Ok(Report::of(self.case.name(), forward, grad, stepped));
        }
        let grad = self.gradients(&gradients)?;
        let stepped = match self.case.setting::<Optimizer>("optimizer")? {
            Some(optimizer) => self.step(&optimizer, gradients, &buffers)?,
            None => self.after_forward()?,
        };
        Ok(Report::of(self.case.name(), forward, grad, stepped))
    }

    pub(super) fn state(&self) -> State<'_> {
        State {
            case: self.case,
            method: self.setup.method.as_ref(),
            source: &self.setup.source,
        }
    }

    fn forward(&self, recorded: &Recorded, gradients: &Gradients) -> Result<Worst> {
        let mut worst = Worst::default();
        for (name, theirs) in self.case.group("expect.").iter() {
            if self.losses_only && !name.starts_with("loss") {
                continue;
            }
            let ours = match (
                name,
                self.setup.outputs.iter().find(|(known, _)| known == name),
            ) {
                ("loss", _) => recorded.get("loss")?,
                #[expect(clippy::cast_possible_truncation, reason = "recorded in f32")]
                ("grad_norm" | "grad_norm_before_clip", _) => {
                    Tensor::new(gradients.norm()? as f32, self.device)?
                }
                (_, Some((_, extract))) => extract(recorded)?,
                (_, None) => {
                    worst.fail(
                        &format!("expect.{name}"),
                        "mim has no value to compare with it",
                    );
                    continue;
                }
            };
            let full = format!("expect.{name}");
            let ignored = self.tolerance.ignored(&full, theirs.elem_count());
            let skip = |index| ignored.iter().any(|range| range.contains(&index));
            let mut rule = rule((self.tolerance.rtol, self.tolerance.atol), &skip);
            if let Some(floor) = self.setup.rounding.floor(&full) {
                rule.floor = floor;
            }
            worst.tensor(&full, &ours, theirs, &rule)?;
        }
        Ok(worst)
    }

    fn gradients(&self, gradients: &Gradients) -> Result<Worst> {
        let mut worst = Worst::default();
        let recorded = self.case.group("grad.");
        let trainable = self.state().theirs(
            gradients
                .iter()
                .map(|(name, var, _)| (name.to_owned(), var.as_detached_tensor())),
        )?;
        for name in trainable
            .names()
            .filter(|name| recorded.get(name).is_none())
        {
            worst.fail(&format!("grad.{name}"), "we train it, the authors do not");
        }
        let own = gradients
            .iter()
            .filter_map(|(name, _, gradient)| Some((name.to_owned(), gradient?.clone())));
        let own = self.state().theirs(own)?;
        let scale = rounding::scale(&recorded)?;
        for (name, theirs) in recorded.iter() {
            let full = format!("grad.{name}");
            let Some(ours) = own.get(name) else {
                // Zeros may be recorded for parameters without influence on the loss.
                let ignored = self.tolerance.ignored(&full, theirs.elem_count());
                if !ignored.contains(&(0..theirs.elem_count())) {
                    worst.fail(&full, "no gradient arrives");
                }
                continue;
            };
            if self.setup.rounding.is_zero(name) {
                rounding::check(&mut worst, &full, (ours, theirs), scale)?;
                continue;
            }
            let ignored = self.tolerance.ignored(&full, theirs.elem_count());
            let skip = |index| ignored.iter().any(|range| range.contains(&index));
            let mut rule = rule((self.tolerance.grad_rtol, self.tolerance.grad_atol), &skip);
            if let Some(floor) = self.setup.rounding.floor(name) {
                rule.floor = floor;
            }
            worst.tensor(&full, ours, theirs, &rule)?;
        }
        Ok(worst)
    }
}
