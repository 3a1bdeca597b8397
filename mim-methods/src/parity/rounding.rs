//! Recorded gradients whose own rounding is larger than their case allows.
//!
//! Some are zero by mathematics although the case does not list them: what is recorded of them is
//! rounding, and so is ours, and both are compared with zero, not with each other. Others have passed
//! a batch norm over three to five nearly equal rows, whose division by a small deviation magnifies
//! rounding: computed in f64 from the same inputs, CMAE's case0 differs from what is recorded by up
//! to 2.6e-5 of the largest element of a tensor, 1.2 times what the case allows.

use candle_core::{DType, Tensor};
use mim_core::Result;
use mim_core::weights::WeightMap;

use super::compare::Worst;

/// (method, the authors' name, why).
const ZERO: &[(&str, &str, &str)] = &[
    (
        "cmae",
        "feature_decoder.ln1.bias",
        "it moves the pooled rows of all images alike, and the projector's batch norm takes that away",
    ),
    (
        "cmae",
        "feature_decoder.decoder_pred.bias",
        "it moves the pooled rows of all images alike, and the projector's batch norm takes that away",
    ),
];

/// Share of the largest recorded gradient below which a number counts as rounding.
const ROUNDING: f64 = 1e-4;

/// (method, start of the authors' names) of gradients that have passed a batch norm of few rows.
const MAGNIFIED: &[(&str, &str)] = &[
    ("cmae", "backbone."),
    ("cmae", "feature_decoder."),
    ("cmae", "projector."),
    ("cmae", "head.predictor."),
];

/// Share of a tensor's largest gradient by which each element may be off in any case.
pub(super) fn floor(method: &str, name: &str) -> Option<f64> {
    MAGNIFIED
        .iter()
        .any(|(known, start)| *known == method && name.starts_with(start))
        .then_some(1e-4)
}

/// Whether the gradient of the authors' `name` is zero but for rounding.
pub(super) fn is_zero(method: &str, name: &str) -> bool {
    ZERO.iter()
        .any(|(known, zero, _)| *known == method && *zero == name)
}

/// The largest magnitude among all recorded gradients.
pub(super) fn scale(recorded: &WeightMap) -> Result<f64> {
    recorded
        .iter()
        .map(|(_, gradient)| largest(gradient))
        .try_fold(0f64, |most, value| Ok(most.max(value?)))
}

/// Checks that our gradient and theirs are both rounding.
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
                format!("zero by mathematics, but {whose} reaches {found:.1e}"),
            );
        }
    }
    Ok(())
}

fn largest(xs: &Tensor) -> Result<f64> {
    let values: Vec<f64> = xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    // Not `max` alone, which would pass over NaN.
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
        assert!(is_zero("cmae", "feature_decoder.ln1.bias"));
        assert!(!is_zero("mae", "feature_decoder.ln1.bias"));
        assert_eq!(floor("cmae", "backbone.cls_token"), Some(1e-4));
        assert_eq!(floor("cmae", "pixel_decoder.mask_token"), None);
    }
}
