//! Profile of a step: the cost of each operation, by shape.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

/// Which pass an operation ran in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// Computes the result.
    Forward,
    /// Computes the gradients.
    Backward,
    /// Updates parameters.
    Update,
}

/// Cost of one operation at one shape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Number of calls.
    pub calls: usize,
    /// Total seconds.
    pub seconds: f64,
    /// Total floating-point operations; matrix products only.
    pub flop: f64,
}

/// Costs by operation, pass and shape of the first operand.
pub type Profile = BTreeMap<(&'static str, Pass, Vec<usize>), Cost>;

thread_local! {
    static ACTIVE: RefCell<Option<Profile>> = const { RefCell::new(None) };
}

/// Runs `work` and returns the cost of its operations; only those with their own kernels are recorded.
pub fn profiled<R>(work: impl FnOnce() -> R) -> (R, Profile) {
    let before = ACTIVE.replace(Some(Profile::new()));
    let result = work();
    let found = ACTIVE.replace(before).unwrap_or_default();
    (result, found)
}

/// Records the time from its creation to its drop.
pub(super) struct Timer(Option<Running>);

struct Running {
    key: (&'static str, Pass, Vec<usize>),
    flop: f64,
    start: Instant,
}

/// Starts a timer for an operation, if a profile is active.
pub(super) fn timer(op: &'static str, pass: Pass, dims: &[usize], flop: f64) -> Timer {
    let asked = ACTIVE.with_borrow(Option::is_some);
    Timer(asked.then(|| Running {
        key: (op, pass, dims.to_vec()),
        flop,
        start: Instant::now(),
    }))
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some(Running { key, flop, start }) = self.0.take() else {
            return;
        };
        let seconds = start.elapsed().as_secs_f64();
        ACTIVE.with_borrow_mut(|active| {
            if let Some(active) = active {
                let cost = active.entry(key).or_default();
                cost.calls += 1;
                cost.seconds += seconds;
                cost.flop += flop;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate as ops;
    use crate::testing::random;
    use candle_core::Var;

    #[test]
    fn passes_are_separate_and_nothing_is_recorded_without_a_profile() {
        let weight = Var::from_tensor(&random(1, &[3, 4])).unwrap();
        let work = || {
            let ys = ops::linear(&random(2, &[5, 4]), &weight, None).unwrap();
            ys.sum_all().unwrap().backward().unwrap();
        };
        work();
        let ((), found) = profiled(work);
        let cost = |pass| found[&("linear", pass, vec![5, 4])];
        assert_eq!(
            (cost(Pass::Forward).calls, cost(Pass::Forward).flop),
            (1, 120.)
        );
        // The input tracks no gradient.
        assert_eq!(cost(Pass::Backward).flop, 120.);
        assert!(profiled(|| ()).1.is_empty());
    }
}
