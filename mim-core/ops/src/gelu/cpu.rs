//! f32 kernels of GELU.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them; outputs start uninitialised"
)]

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::alloc_uninit::alloc_uninit;
use crate::partition::rows_per_task;
use crate::simd::{exp, multiversion, polynomial};

/// The density of the normal distribution at 0: `1 / √(2π)`.
const DENSITY_AT_0: f32 = 0.398_942_3;

/// `Φ(x)` to 1e-7 and `e^(-x²/2)`, which Φ and its derivative share.
///
/// With `z = |x| / √2`: below `z = 1` an odd polynomial for erf; above, `erfc(z) = e^(-z²) t P(t)`
/// with `t = 1 / (1 + 0.4 z)`, the form of Abramowitz and Stegun 7.1.26. Both were fitted to
/// f64 erf to minimise the largest error, 6e-10 and 3e-8. Each avoids the cancellation of the other.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const CENTRE: [f32; 7] = [
        FRAC_2_SQRT_PI,
        -0.376_126_06,
        0.112_834_3,
        -0.026_848_59,
        0.005_179_75,
        -0.000_794_235_7,
        0.000_076_471_19,
    ];
    const TAIL: [f32; 6] = [
        0.231_922_25,
        0.161_822_59,
        0.468_276_6,
        -0.370_910_94,
        0.709_149_2,
        -0.200_259_7,
    ];
    let z = x.abs() * FRAC_1_SQRT_2;
    let bell = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.4 * z);
    let tail = 0.5 * t * polynomial(TAIL, t) * bell;
    let outer = if x < 0.0 { tail } else { 1.0 - tail };
    let centre = 0.5 + 0.5 * FRAC_1_SQRT_2 * x * polynomial(CENTRE, z * z);
    (if z < 1.0 { centre } else { outer }, bell)
}

multiversion! {
    fn forward_block(xs: &[f32], ys: &mut [MaybeUninit<f32>]) {
        for (y, x) in ys.iter_mut().zip(xs) {
            y.write(x * normal(*x).0);
        }
    }
}

/// `Φ(x) + x Φ'(x)`, from the output of [`normal`].
#[inline(always)]
fn slope(x: f32, (cdf, bell): (f32, f32)) -> f32 {
    cdf + x * DENSITY_AT_0 * bell
}

multiversion! {
    fn both_blocks(xs: &mut [f32], ys: &mut [MaybeUninit<f32>]) {
        for (y, x) in ys.iter_mut().zip(xs) {
            let found = normal(*x);
            y.write(*x * found.0);
            *x = slope(*x, found);
        }
    }
}

multiversion! {
    fn backward_block(xs: &[f32], grad: &mut [f32]) {
        for (grad, x) in grad.iter_mut().zip(xs) {
            *grad *= slope(*x, normal(*x));
        }
    }
}

multiversion! {
    fn multiply_block(grad: &mut [f32], slopes: &[f32]) {
        for (grad, slope) in grad.iter_mut().zip(slopes) {
            *grad *= slope;
        }
    }
}

/// `x Φ(x)`.
pub(crate) fn forward(xs: &[f32]) -> Vec<f32> {
    let task = rows_per_task(1);
    // SAFETY: the blocks cover all values.
    unsafe {
        alloc_uninit(xs.len(), |ys| {
            ys.par_chunks_mut(task)
                .zip(xs.par_chunks(task))
                .for_each(|(ys, xs)| forward_block(xs, ys));
        })
    }
}

/// As [`forward`], and replaces `xs` by the slopes `Φ(x) + x Φ'(x)`; both together cost little more than one.
pub(crate) fn forward_and_slopes(xs: &mut [f32]) -> Vec<f32> {
    let task = rows_per_task(1);
    // SAFETY: the blocks cover all values.
    unsafe {
        alloc_uninit(xs.len(), |ys| {
            ys.par_chunks_mut(task)
                .zip(xs.par_chunks_mut(task))
                .for_each(|(ys, xs)| both_blocks(xs, ys));
        })
    }
}

/// Multiplies a gradient by the slopes at `xs`.
pub(crate) fn backward(xs: &[f32], mut grad: Vec<f32>) -> Vec<f32> {
    let task = rows_per_task(1);
    grad.par_chunks_mut(task)
        .zip(xs.par_chunks(task))
        .for_each(|(grad, xs)| backward_block(xs, grad));
    grad
}

/// Multiplies a gradient by slopes.
pub(crate) fn multiply(grad: &mut [f32], slopes: &[f32]) {
    let task = rows_per_task(1);
    grad.par_chunks_mut(task)
        .zip(slopes.par_chunks(task))
        .for_each(|(grad, slopes)| multiply_block(grad, slopes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::cpu::erf::erf_f64;

    #[test]
    fn erf_is_within_2e7() {
        for step in -60_000..=60_000 {
            let x = step as f32 * 1e-4;
            let erf = 2.0 * f64::from(normal(x).0) - 1.0;
            let want = erf_f64(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2);
            assert!(
                (erf - want).abs() < 2e-7,
                "erf({x} / √2): {erf} against {want}"
            );
        }
    }

    #[test]
    fn large_inputs_stay_finite_and_nan_propagates() {
        assert_eq!(forward(&[-1e30, 1e30, -0.0]), [0.0, 1e30, 0.0]);
        assert_eq!(backward(&[-1e30, 1e30], vec![1.0, 1.0]), [0.0, 1.0]);
        assert!(forward(&[f32::NAN])[0].is_nan());
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let xs: Vec<f32> = (0..1000).map(|i| i as f32 * 0.013 - 6.5).collect();
        let plain: Vec<f32> = xs
            .iter()
            .map(|x| std::hint::black_box(*x))
            .map(|x| x * normal(x).0)
            .collect();
        assert_eq!(forward(&xs), plain);
    }

    #[test]
    fn fused_values_and_slopes_match_separate_passes() {
        let xs: Vec<f32> = (0..100).map(|i| i as f32 * 0.13 - 6.5).collect();
        let mut slopes = xs.clone();
        assert_eq!(forward_and_slopes(&mut slopes), forward(&xs));
        assert_eq!(slopes, backward(&xs, vec![1.0; 100]));
        let mut grad = xs.clone();
        multiply(&mut grad, &slopes);
        assert_eq!(grad, backward(&xs, xs.clone()));
    }
}
