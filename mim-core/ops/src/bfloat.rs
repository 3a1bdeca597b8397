//! Values stored as bfloat16, in half the memory.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them; outputs start uninitialised"
)]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::alloc_uninit::alloc_uninit;
use super::partition::rows_per_task;
use super::precision::{Precision, precision};
use super::simd::multiversion;

/// The bits of the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn round_one(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // Make NaN quiet: rounding could turn it into infinity.
    let bits = if x.is_nan() { bits | 1 << 22 } else { rounded };
    (bits >> 16) as u16
}

/// The f32 value of bfloat16 bits.
#[inline(always)]
pub(super) fn widen_one(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

multiversion! {
    fn round_block(xs: &[f32], ys: &mut [MaybeUninit<u16>]) {
        for (y, x) in ys.iter_mut().zip(xs) {
            y.write(round_one(*x));
        }
    }
}

multiversion! {
    /// Rounds to bfloat16 precision but stores f32.
    pub(super) fn round_in_f32(xs: &[f32], ys: &mut [MaybeUninit<f32>]) {
        for (y, x) in ys.iter_mut().zip(xs) {
            y.write(widen_one(round_one(*x)));
        }
    }
}

multiversion! {
    fn widen_block(xs: &[u16], ys: &mut [MaybeUninit<f32>]) {
        for (y, x) in ys.iter_mut().zip(xs) {
            y.write(widen_one(*x));
        }
    }
}

/// Rounds all values.
fn round(xs: &[f32]) -> Vec<u16> {
    let task = rows_per_task(1);
    // SAFETY: the tasks cover all values.
    unsafe {
        alloc_uninit(xs.len(), |ys| {
            ys.par_chunks_mut(task)
                .zip(xs.par_chunks(task))
                .for_each(|(ys, xs)| round_block(xs, ys));
        })
    }
}

/// Converts all values back to f32.
fn widen(xs: &[u16]) -> Vec<f32> {
    let task = rows_per_task(1);
    // SAFETY: the tasks cover all values.
    unsafe {
        alloc_uninit(xs.len(), |ys| {
            ys.par_chunks_mut(task)
                .zip(xs.par_chunks(task))
                .for_each(|(ys, xs)| widen_block(xs, ys));
        })
    }
}

/// Values stored for the backward pass: as bfloat16 if matrix products round their operands to it as well.
pub(super) enum Kept {
    /// As f32.
    Whole(Vec<f32>),
    /// Rounded to bfloat16.
    Half(Vec<u16>),
}

impl Kept {
    pub(super) fn new(values: Vec<f32>) -> Self {
        match precision() {
            Precision::F32 => Self::Whole(values),
            Precision::Bf16 => Self::Half(round(&values)),
        }
    }

    pub(super) fn values(self) -> Vec<f32> {
        match self {
            Self::Whole(values) => values,
            Self::Half(values) => widen(&values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_and_keeps_inf_and_nan() {
        let xs = [
            0.,
            -1.5,
            1. + 1. / 256.,
            1. + 3. / 256.,
            f32::INFINITY,
            3.4e38,
        ];
        let ys = [0., -1.5, 1., 1. + 4. / 256., f32::INFINITY, f32::INFINITY];
        assert_eq!(widen(&round(&xs)), ys);
        assert!(
            widen(&round(&[f32::NAN, f32::from_bits(0x7f80_0001)]))
                .iter()
                .all(|x| x.is_nan())
        );
        let many: Vec<f32> = (0..100).map(|i| i as f32).collect();
        assert_eq!(widen(&round(&many)), many);
    }
}
