//! Exponential moving average of a parameter, in place.

mod cpu;
mod gpu;
mod reference;

use candle_core::Tensor;
use rayon::prelude::*;

use super::cpu_slices::{change, check_in_place, floats, is_f32_on_cpu};
use super::gpu::is_supported;
use super::profile::{Pass, timer};
use crate::{Error, Result};

/// `teacher ← momentum * teacher + (1 - momentum) * student`, for tensors of the same shape.
///
/// # Errors
///
/// [`Error::InvalidArgument`] if `momentum` is outside `[0, 1]`, [`Error::Shape`] if shapes differ,
/// [`Error::Unsupported`] if the two share storage or the teacher is not contiguous.
pub fn ema_update(teacher: &Tensor, student: &Tensor, momentum: f64) -> Result<()> {
    ema_updates(&[(teacher, student)], momentum)
}

/// [`ema_update`] for many pairs (teacher, student) of the same shape: in parallel on all threads, or in one launch on a GPU.
///
/// # Errors
///
/// As [`ema_update`]; other pairs may have been updated already.
pub fn ema_updates(pairs: &[(&Tensor, &Tensor)], momentum: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&momentum) {
        return Err(Error::argument(
            "ema_update",
            "momentum",
            momentum,
            "an average lies between its two inputs",
            "choose a value in [0, 1]",
        ));
    }
    let _timer = timer("ema_update", Pass::Update, &[], 0.);
    for (teacher, student) in pairs {
        check_in_place("ema_update", &[teacher], &[student])?;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel computes in f32"
    )]
    let (keep, rest) = (momentum as f32, (1.0 - momentum) as f32);
    if !pairs.is_empty() && pairs.iter().all(|(t, s)| is_supported(&[t, s])) {
        return Ok(gpu::ema_updates(pairs, [keep, rest])?);
    }
    pairs
        .par_iter()
        .with_max_len(1)
        .try_for_each(|(teacher, student)| {
            if !is_f32_on_cpu(&[teacher, student]) {
                return reference::ema_update(teacher, student, momentum);
            }
            let student = student.contiguous()?;
            let student = floats(&student)?;
            Ok(change(teacher, |teacher| {
                cpu::ema_update(teacher, &student, keep, rest);
                Ok(())
            })?)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    fn flat(xs: &Tensor) -> Vec<f32> {
        let xs = xs.to_dtype(DType::F32).unwrap();
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn known_values_also_in_half_precision() {
        for dtype in [DType::F32, DType::BF16] {
            let teacher = Tensor::new(&[1f32, 8.], &Device::Cpu)
                .unwrap()
                .to_dtype(dtype)
                .unwrap();
            let student = Tensor::new(&[5f32, 0.], &Device::Cpu).unwrap();
            ema_update(&teacher, &student, 0.75).unwrap();
            assert_eq!((flat(&teacher), teacher.dtype()), (vec![2., 6.], dtype));
        }
    }

    #[test]
    fn follows_the_reference() {
        let student = random(2, &[1000, 33]).t().unwrap();
        let (fast, slow) = (random(1, &[33, 1000]), random(1, &[33, 1000]));
        ema_update(&fast, &student, 0.996).unwrap();
        reference::ema_update(&slow, &student, 0.996).unwrap();
        for (got, want) in flat(&fast).iter().zip(flat(&slow)) {
            assert!((got - want).abs() < 1e-6, "{got} against {want}");
        }
    }

    #[test]
    fn refuses_itself_and_wrong_momentum() {
        let (xs, ys) = (random(1, &[4]), random(2, &[4]));
        assert!(ema_update(&xs, &xs, 0.5).is_err());
        assert!(ema_update(&xs, &ys, 1.5).is_err());
        assert!(ema_update(&xs, &ys, f64::NAN).is_err());
        assert!(ema_update(&xs, &random(2, &[5]), 0.5).is_err());
    }

    proptest! {
        #[test]
        fn stays_between_its_ends(t in -1e3f32..1e3, s in -1e3f32..1e3, momentum in 0f64..=1.0) {
            let teacher = Tensor::new(&[t], &Device::Cpu).unwrap();
            ema_update(&teacher, &Tensor::new(&[s], &Device::Cpu).unwrap(), momentum).unwrap();
            let (now, slack) = (flat(&teacher)[0], 1e-3);
            prop_assert!(now >= t.min(s) - slack && now <= t.max(s) + slack);
        }
    }
}
