//! Comparing tensors.

use candle_core::{DType, Tensor};
use mim_core::Result;

/// The largest relative error of a group of tensors, and the worst tensor outside its tolerance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Worst {
    /// Largest `max|a - b| / max|b|`; `None` if nothing was compared.
    pub error: Option<f64>,
    /// What differs: (tensor, why).
    pub failure: Option<(String, String)>,
    excess: f64,
}

/// Which elements of a tensor are compared, and how far they may be off.
pub(super) struct Rule<'a> {
    pub(super) rtol: f64,
    pub(super) atol: f64,
    /// Share of the largest value that is always allowed.
    pub(super) floor: f64,
    /// Elements that are not compared.
    pub(super) skip: &'a dyn Fn(usize) -> bool,
}

impl Worst {
    /// Records that `name` cannot be compared.
    pub(super) fn fail(&mut self, name: &str, why: impl Into<String>) {
        self.excess = f64::INFINITY;
        self.failure
            .get_or_insert_with(|| (name.to_owned(), why.into()));
    }

    /// The larger errors of both.
    pub(super) fn and(self, other: Self) -> Self {
        let worse = match other.excess > self.excess {
            true => other.clone(),
            false => self.clone(),
        };
        let errors = [self.error, other.error].into_iter().flatten();
        Self {
            error: errors.reduce(f64::max),
            ..worse
        }
    }

    /// Records a relative error of `name`, which may be up to `allowed`.
    pub(super) fn relative(&mut self, name: &str, error: f64, allowed: f64) {
        // Not `max`, which would ignore NaN.
        let error = if error.is_nan() { f64::INFINITY } else { error };
        self.error = Some(self.error.unwrap_or(0.).max(error));
        let excess = if error == 0. { 0. } else { error / allowed };
        if excess > 1. && excess > self.excess {
            self.excess = excess;
            let why = format!("off by {error:.3e}, {excess:.1} times what is allowed");
            self.failure = Some((name.to_owned(), why));
        }
    }

    /// Compares one tensor.
    pub(super) fn tensor(
        &mut self,
        name: &str,
        ours: &Tensor,
        theirs: &Tensor,
        rule: &Rule<'_>,
    ) -> Result<()> {
        if ours.dims() != theirs.dims() {
            self.fail(
                name,
                format!("shape {:?}, recorded {:?}", ours.dims(), theirs.dims()),
            );
            return Ok(());
        }
        let exact = !theirs.dtype().is_float();
        let values = |xs: &Tensor| xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let (ours, theirs) = (values(ours)?, values(theirs)?);
        let largest = theirs.iter().fold(0f64, |max, value| max.max(value.abs()));
        let (mut difference, mut excess, mut compared) = (0f64, 0f64, false);
        for (index, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            if (rule.skip)(index) {
                continue;
            }
            compared = true;
            // Not `max`, which would ignore NaN.
            let off = if a == b { 0. } else { (a - b).abs() };
            let off = if off.is_nan() { f64::INFINITY } else { off };
            let allowed = match exact {
                true => 0.,
                // Not below zero, where any difference would be too large.
                false => (rule.atol + rule.rtol * b.abs() + rule.floor * largest).max(0.),
            };
            difference = difference.max(off);
            excess = excess.max(if off == 0. { 0. } else { off / allowed });
        }
        if !compared {
            return Ok(());
        }
        let relative = if difference == 0. {
            0.
        } else {
            difference / largest.max(f64::MIN_POSITIVE)
        };
        self.error = Some(self.error.unwrap_or(0.).max(relative));
        if excess > 1. && excess > self.excess {
            self.excess = excess;
            self.failure = Some((
                name.to_owned(),
                format!("off by {difference:.3e}, {excess:.1} times what is allowed"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn compared(ours: &[f64], theirs: &[f64], skip: &dyn Fn(usize) -> bool) -> Worst {
        let tensor = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap();
        let mut worst = Worst::default();
        let rule = Rule {
            rtol: 1e-4,
            atol: 1e-5,
            floor: 1e-6,
            skip,
        };
        worst
            .tensor("x", &tensor(ours), &tensor(theirs), &rule)
            .unwrap();
        worst
    }

    #[test]
    fn agrees_within_the_tolerance_only() {
        assert!(
            compared(&[1., 2.], &[1.00005, 2.], &|_| false)
                .failure
                .is_none()
        );
        assert!(
            compared(&[1., 2.], &[1.001, 2.], &|_| false)
                .failure
                .is_some()
        );
        assert!(
            compared(&[1., 2.], &[1.001, 2.], &|index| index == 0)
                .failure
                .is_none()
        );
        assert!(compared(&[f64::NAN], &[1.], &|_| false).failure.is_some());
        assert!(compared(&[1.], &[1., 2.], &|_| false).failure.is_some());
        assert_eq!(compared(&[1.], &[1.], &|_| true).error, None);
    }

    #[test]
    fn shapes_must_be_equal() {
        let row = Tensor::zeros((1, 4), DType::F32, &Device::Cpu).unwrap();
        let square = row.reshape((2, 2)).unwrap();
        let rule = Rule {
            rtol: 1.,
            atol: 1.,
            floor: 1.,
            skip: &|_| false,
        };
        let mut worst = Worst::default();
        worst.tensor("x", &row, &square, &rule).unwrap();
        assert!(worst.failure.unwrap().1.contains("shape"));
    }

    #[test]
    fn integers_must_be_equal() {
        let mut worst = Worst::default();
        let (ours, theirs) = (
            Tensor::new(&[1u32, 2], &Device::Cpu).unwrap(),
            Tensor::new(&[1i64, 3], &Device::Cpu).unwrap(),
        );
        worst
            .tensor(
                "ids",
                &ours,
                &theirs,
                &Rule {
                    rtol: 1.,
                    atol: 9.,
                    floor: 1.,
                    skip: &|_| false,
                },
            )
            .unwrap();
        assert!(worst.failure.is_some());
    }
}
