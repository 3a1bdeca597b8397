//! All weights after some of the steps.

use candle_core::{DType, Tensor};
use mim_core::weights::WeightMap;

use super::super::compare::Worst;
use super::super::stores::State;
use super::super::{Case, DriftTolerance, Result};
use super::Replay;

/// A movement is compared only if it is more than this share of the tensor.
const MOVED: f64 = 1e-3;

/// How far a tensor of zeros may be off.
const OF_ZEROS: f64 = 1e-9;

/// The recorded weights, and our initial ones.
pub(super) struct Snapshots<'a> {
    case: &'a Case,
    tolerance: &'a DriftTolerance,
    at: Vec<usize>,
    start: WeightMap,
}

impl<'a> Snapshots<'a> {
    /// Of a method at its start.
    pub(super) fn new(
        case: &'a Case,
        tolerance: &'a DriftTolerance,
        state: State<'_>,
    ) -> Result<Self> {
        let copies = state.all_theirs()?;
        let copies = copies
            .iter()
            .map(|(name, xs)| Ok((name.to_owned(), xs.copy()?)));
        Ok(Self {
            case,
            tolerance,
            at: case.setting_or("snapshots", vec![])?,
            start: copies.collect::<Result<_>>()?,
        })
    }

    /// Compares all weights recorded after this many steps, if there are any.
    pub(super) fn compare(&self, steps: usize, replay: &Replay, worst: &mut Worst) -> Result<()> {
        if !self.at.contains(&steps) {
            return Ok(());
        }
        let own = replay.state(self.case).all_theirs()?;
        let prefix = format!("step{steps}.");
        let recorded = self.case.group(&prefix);
        if recorded.is_empty() {
            worst.fail(&prefix, "nothing is recorded of this step");
        }
        for (name, theirs) in recorded.iter() {
            let full = format!("{prefix}{name}");
            if replay
                .own
                .absent
                .iter()
                .any(|start| name.starts_with(start))
            {
                continue;
            }
            let exported = replay
                .own
                .renamed
                .iter()
                .find(|(recorded, _)| *recorded == name);
            let exported = exported.map_or(name, |(_, exported)| exported);
            let (Some(ours), Some(start)) = (own.get(exported), self.start.get(exported)) else {
                worst.fail(&full, "we have no such parameter");
                continue;
            };
            if ours.dims() != theirs.dims() {
                let why = format!("shape {:?}, recorded {:?}", ours.dims(), theirs.dims());
                worst.fail(&full, why);
                continue;
            }
            let skip = self.case.tolerance().ignored(&full, theirs.elem_count());
            let counts = |index: &usize| !skip.iter().any(|range| range.contains(index));
            let values = |xs: &Tensor| -> Result<Vec<f64>> {
                let values: Vec<f64> = xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
                let kept = values.into_iter().enumerate();
                Ok(kept
                    .filter(|(index, _)| counts(index))
                    .map(|(_, x)| x)
                    .collect())
            };
            let all = [values(ours)?, values(theirs)?, values(start)?];
            let bounds = self.tolerance.parameter(steps, name);
            compare(&full, &all, bounds, worst);
        }
        Ok(())
    }
}

/// Compares our values with theirs, and how far both have moved from the start.
fn compare(
    name: &str,
    [ours, theirs, start]: &[Vec<f64>; 3],
    (of_values, of_movement): (f64, f64),
    worst: &mut Worst,
) {
    let largest = |xs: &mut dyn Iterator<Item = f64>| {
        // Not `max` alone, which would ignore NaN.
        xs.fold(0f64, |most, x| {
            if x.is_nan() {
                f64::INFINITY
            } else {
                most.max(x.abs())
            }
        })
    };
    let differences = || ours.iter().zip(theirs).map(|(a, b)| a - b);
    let (off, size) = (
        largest(&mut differences()),
        largest(&mut theirs.iter().copied()),
    );
    match size > 0. {
        true => worst.relative(name, off / size, of_values),
        false => worst.relative(name, off, OF_ZEROS),
    }
    let length = |xs: &mut dyn Iterator<Item = f64>| xs.map(|x| x * x).sum::<f64>().sqrt();
    let moved = length(&mut theirs.iter().zip(start).map(|(b, c)| b - c));
    if moved > MOVED * length(&mut start.iter().copied()) {
        let off = length(&mut differences());
        worst.relative(&format!("the movement of {name}"), off / moved, of_movement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_movements_have_bounds_of_their_own() {
        let failure = |ours: [f64; 2], start: [f64; 2]| {
            let mut worst = Worst::default();
            let all = [ours.to_vec(), vec![10., 0.], start.to_vec()];
            compare("step2.x", &all, (1e-2, 0.5), &mut worst);
            worst.failure.map(|(name, _)| name)
        };
        assert_eq!(failure([10.05, 0.], [0., 0.]), None);
        assert_eq!(failure([10.2, 0.], [0., 0.]).unwrap(), "step2.x");
        // It should have moved by 0.1, and did not.
        let stays = failure([9.9, 0.], [9.9, 0.]).unwrap();
        assert_eq!(stays, "the movement of step2.x");
        // Too small a movement to be judged.
        assert_eq!(failure([9.999, 0.], [9.999, 0.]), None);
        assert!(failure([f64::NAN, 0.], [0., 0.]).is_some());
    }
}
