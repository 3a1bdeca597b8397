//! Recorded gradients whose own rounding is larger than their case allows.
//!
//! Some gradients are mathematically zero, although the case does not list them. Ours and theirs are then both rounding
//! errors, and both are compared with zero, not with each other. Others were scaled up together with their rounding
//! errors. The golden cases of a method name both kinds, with the reason.

use candle_core::{DType, Tensor};
use mim_core::Result;
use mim_core::weights::WeightMap;

use super::compare::Worst;

/// Share of the largest recorded gradient below which a number counts as rounding.
const ROUNDING: f64 = 1e-4;

/// Gradients and outputs of a method that are not compared as the case says, by the authors' names. Names of outputs
/// start with `expect.`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rounding {
    /// (name, why): zero up to rounding.
    pub zero: &'static [(&'static str, &'static str)],
    /// (start of the name, share of the tensor's largest value by which an element may be off, why).
    pub magnified: &'static [(&'static str, f64, &'static str)],
}

impl Rounding {
    /// Share of a tensor's largest value by which each element may always be off.
    pub(super) fn floor(&self, name: &str) -> Option<f64> {
        let found = self.magnified.iter();
        found
            .filter(|(start, ..)| name.starts_with(start))
            .map(|(_, share, _)| *share)
            .next()
    }

    /// Whether a gradient is zero up to rounding.
    pub(super) fn is_zero(&self, name: &str) -> bool {
        self.zero.iter().any(|(zero, _)| *zero == name)
    }
}

/// The largest magnitude among all recorded gradients.
pub(super) fn scale(recorded: &WeightMap) -> Result<f64> {
    recorded
        .iter()
        .map(|(_, gradient)| largest(gradient))
        .try_fold(0f64, |most, value| Ok(most.max(value?)))
}

/// Checks that our gradient and theirs are both rounding errors.
pub(super) fn check(
    worst: &mut Worst,
    name: &str,
    (ours, theirs): (&Tensor, &Tensor),
    scale: f64,
) -> Result<()> {
    for (whose, gradient) in [("ours", ours), ("the recorded one", theirs)] {
        let found = largest(gradient)?;
        if found.is_nan() || found > ROUNDING * scale {
            worst.fail(
                name,
                format!("mathematically zero, but {whose} reaches {found:.1e}"),
            );
        }
    }
    Ok(())
}

fn largest(xs: &Tensor) -> Result<f64> {
    let values: Vec<f64> = xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    // Not `max` alone, which would ignore NaN.
    Ok(values
        .iter()
        .fold(0f64, |most, value| match value.is_nan() {
            true => f64::NAN,
            false if most.is_nan() => most,
            false => most.max(value.abs()),
        }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rounding_passes_and_gradients_do_not() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let failure = |ours: &[f32], theirs: &[f32]| {
            let mut worst = Worst::default();
            let pair = (&tensor(ours), &tensor(theirs));
            check(&mut worst, "grad.x", pair, 0.5).unwrap();
            worst.failure.map(|(_, why)| why)
        };
        assert_eq!(failure(&[2e-6, -1e-5], &[-3e-6, 0.]), None);
        assert!(failure(&[1e-3, 0.], &[0., 0.]).unwrap().contains("ours"));
        assert!(failure(&[0.], &[-1e-3]).unwrap().contains("recorded"));
        assert!(failure(&[f32::NAN, 0.], &[0., 0.]).is_some());
        let rules = Rounding {
            zero: &[("ln.bias", "taken away by a norm")],
            magnified: &[("backbone.", 1e-4, "passed a batch norm of few rows")],
        };
        assert!(rules.is_zero("ln.bias") && !rules.is_zero("ln.weight"));
        assert_eq!(rules.floor("backbone.cls_token"), Some(1e-4));
        assert_eq!(rules.floor("decoder.mask_token"), None);
    }
}
