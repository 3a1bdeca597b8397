//! Values annealed along a half cosine.

use mim_core::{Error, Result, StepContext};
use serde::{Deserialize, Serialize};

use super::NAME;

/// A value that moves along a half cosine from `from` to `to` in the first part of a run, and then stays there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annealed {
    /// Value at the first step.
    pub from: f64,
    /// Value at the end of the part.
    pub to: f64,
    /// Length of that part, as a share of the run's steps in `(0, 1]`.
    pub share: f64,
}

impl Annealed {
    /// The value at `step`.
    pub fn at(&self, step: &StepContext) -> f64 {
        let length = (self.share * step.total_iters() as f64).max(1.);
        let progress = (step.global_iter() as f64 / length).min(1.);
        self.to + (self.from - self.to) * (1. + (std::f64::consts::PI * progress).cos()) / 2.
    }

    pub(super) fn check(&self, field: &'static str, least: f64) -> Result<()> {
        let bad = |value: f64, why: String| {
            let fix = "remove it to use the paper's value";
            Err(Error::config(NAME, field, value, why, fix))
        };
        for value in [self.from, self.to] {
            if !value.is_finite() || value < least {
                return bad(value, format!("it must be at least {least}"));
            }
        }
        match self.share > 0. && self.share <= 1. {
            true => Ok(()),
            false => bad(
                self.share,
                "its share of the run must be in (0, 1]".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_along_a_cosine_and_stay() {
        let annealed = Annealed {
            from: 1.,
            to: 0.25,
            share: 0.5,
        };
        let at = |iter: usize| {
            annealed.at(&StepContext {
                iter,
                iters_per_epoch: 100,
                ..StepContext::new(0)
            })
        };
        assert_eq!((at(0), at(50), at(99)), (1., 0.25, 0.25));
        assert!((at(25) - 0.625).abs() < 1e-12);
    }
}
