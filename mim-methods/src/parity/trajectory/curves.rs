//! Numbers recorded at every step.

use candle_core::DType;

use super::super::compare::Worst;
use super::super::{Case, DriftTolerance, Result};

/// Our curves, by the names of the recorded ones.
#[derive(Default)]
pub(super) struct Curves(Vec<(String, Vec<f64>)>);

/// A curve that has left its tolerance.
struct Left {
    name: String,
    /// Counted from 1.
    step: usize,
    why: String,
}

impl Curves {
    /// Adds the number of the next step.
    pub(super) fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    /// Compares all recorded curves, or only losses. Returns (losses and scheduled numbers, gradient norms).
    ///
    /// If one leaves its tolerance, the failure names the first that does, and the step.
    pub(super) fn compare(
        &self,
        case: &Case,
        tolerance: &DriftTolerance,
        losses_only: bool,
    ) -> Result<(Worst, Worst)> {
        let (mut forward, mut grad) = (Worst::default(), Worst::default());
        let mut left = Vec::new();
        for (name, theirs) in case.group("expect.").iter() {
            if name.starts_with("features") || (losses_only && !name.starts_with("loss")) {
                continue;
            }
            let Some((_, ours)) = self.0.iter().find(|(known, _)| known == name) else {
                let why = "mim has no value to compare with it";
                forward.fail(&format!("expect.{name}"), why);
                continue;
            };
            let theirs: Vec<f64> = theirs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
            let allowed = |index: usize| allowed(tolerance, name, index + 1, theirs[index]);
            let worst = match name {
                "grad_norm" => &mut grad,
                _ => &mut forward,
            };
            left.extend(compare(name, (ours, &theirs), allowed, worst));
        }
        left.sort_by_key(|left| left.step);
        if let [first, others @ ..] = left.as_slice() {
            forward.fail(&format!("expect.{}", first.name), first.tell(others));
        }
        Ok((forward, grad))
    }
}

/// How far a curve may be off at `step`, counted from 1.
fn allowed(tolerance: &DriftTolerance, name: &str, step: usize, value: f64) -> f64 {
    let size = value.abs();
    match name {
        "grad_norm" => tolerance.grad_norm().at(step) * size,
        _ if name.starts_with("loss") => tolerance.loss(name).at(step) * size,
        _ => tolerance.lr_rtol * size + 1e-12,
    }
}

fn compare(
    name: &str,
    (ours, theirs): (&[f64], &[f64]),
    allowed: impl Fn(usize) -> f64,
    worst: &mut Worst,
) -> Option<Left> {
    let left = |step: usize, why: String| Left {
        name: name.to_owned(),
        step,
        why,
    };
    if ours.len() != theirs.len() {
        let why = format!("{} steps, recorded are {}", ours.len(), theirs.len());
        return Some(left(1, why));
    }
    let mut first = None;
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let off = (a - b).abs();
        let off = if off.is_nan() { f64::INFINITY } else { off };
        let error = if off == 0. {
            0.
        } else {
            off / b.abs().max(f64::MIN_POSITIVE)
        };
        worst.relative(name, error, f64::INFINITY);
        if off > allowed(index) && first.is_none() {
            let why = format!("{a} against {b}, allowed are {:.1e}", allowed(index));
            first = Some(left(index + 1, why));
        }
    }
    first
}

impl Left {
    fn tell(&self, others: &[Self]) -> String {
        let mut text = format!("leaves its tolerance at step {}: {}", self.step, self.why);
        for (index, other) in others.iter().enumerate() {
            let joint = if index == 0 { "; then" } else { "," };
            text += &format!("{joint} {} at step {}", other.name, other.step);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_outside_is_named() {
        let theirs = [1., 2., 4., 8.];
        let check = |ours: [f64; 4]| {
            let mut worst = Worst::default();
            let found = compare(
                "loss",
                (&ours, &theirs),
                |index| 0.1 * theirs[index],
                &mut worst,
            );
            (found.map(|left| left.step), worst.error)
        };
        assert_eq!(check([1., 2., 4.2, 8.]).0, None);
        assert_eq!(check([1., 2., 4.5, 9.]), (Some(3), Some(0.125)));
        assert_eq!(
            check([1., f64::NAN, 4., 9.]),
            (Some(2), Some(f64::INFINITY))
        );
        let mut worst = Worst::default();
        assert!(compare("loss", (&[1.], &theirs), |_| 1., &mut worst).is_some());
    }
}
