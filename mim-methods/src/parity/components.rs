//! Golden cases of parts: outputs of a network on recorded inputs.

use candle_core::{Device, Tensor};

use super::compare::Worst;
use super::report::Report;
use super::run::rule;
use super::{Case, Problem, Result, Setup, Tolerance, dvae};

/// Makes our outputs of a case, named as the recorded ones without `expect.`.
type Outputs = fn(&Case, &Device) -> Result<Vec<(String, Tensor)>>;

/// The parts that `mim parity` knows; those of training are checked by the tests.
const COMPONENTS: &[(&str, Outputs)] = &[("dvae", dvae::outputs)];

/// The component called `name`.
pub(super) fn find(name: &str) -> Option<Outputs> {
    let found = COMPONENTS.iter().find(|(known, _)| *known == name);
    found.map(|(_, outputs)| *outputs)
}

/// The adapter of a method without recorded cases.
pub(crate) fn none(case: &Case, _device: &Device) -> Result<Setup> {
    Err(Problem::unknown(format!("a case of {}", case.method())))
}

/// Compares every recorded output.
pub(super) fn run(
    case: &Case,
    outputs: Outputs,
    tolerance: &Tolerance,
    device: &Device,
) -> Result<Report> {
    let ours = outputs(case, device)?;
    let mut worst = Worst::default();
    for (name, theirs) in case.group("expect.").iter() {
        let full = format!("expect.{name}");
        let Some((_, ours)) = ours.iter().find(|(known, _)| known == name) else {
            worst.fail(&full, "nothing of ours is compared with it");
            continue;
        };
        let ignored = tolerance.ignored(&full, theirs.elem_count());
        let skip = |index| ignored.iter().any(|range| range.contains(&index));
        let rule = rule((tolerance.rtol, tolerance.atol), &skip);
        worst.tensor(&full, ours, theirs, &rule)?;
    }
    let none = Worst::default;
    Ok(Report::of(case.name(), worst, none(), none()))
}
