//! SIMD dispatch, and vectorisable mathematics that the kernels share.
//!
//! Fused multiply-add is left out on purpose: without it, every instruction set gives the same bits.
//!
//! The environment variable `MIM_CPU` limits an x86 CPU to fewer instructions, to test what other machines
//! run: `portable`, `avx2`, `avx512`, `avx512_bf16` or `amx`, each including the previous ones. It is read once; any
//! other value is ignored with a warning. Not limited are the crate `gemm`, which multiplies matrices without a
//! blocked kernel, and the image loops of other modules: they detect the CPU themselves.

#[cfg(target_arch = "x86_64")]
mod machine;

#[cfg(target_arch = "x86_64")]
pub(super) use machine::{Instructions, has_avx2, has_avx512, has_avx512_bf16};

/// Number of partial sums of a reduction: two AVX-512 registers, so that their latencies overlap.
const LANES: usize = 32;

/// Compiles a function for AVX-512, AVX2 and the baseline, and dispatches at each call.
///
/// The body must be plain slice code that the compiler vectorises by itself. Everything it calls
/// must be `#[inline(always)]`, to be compiled for the same instruction set.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                if $crate::simd::has_avx512() {
                    // SAFETY: the line above detected the features of this version.
                    return unsafe { avx512($($arg),*) };
                }
                if $crate::simd::has_avx2() {
                    // SAFETY: the line above detected the feature of this version.
                    return unsafe { avx2($($arg),*) };
                }
            }
            portable($($arg),*)
        }
    };
}
pub(super) use multiversion;

/// `c[0] + c[1] x + c[2] x^2 + ...`
#[inline(always)]
pub(super) fn polynomial<const N: usize>(c: [f32; N], x: f32) -> f32 {
    c.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

/// `e^x` for `x <= 88`, relative error below 2e-7; 0 below -87, NaN for NaN.
///
/// `e^x = 2^n e^r` with a whole `n` and `|r| <= ln(2) / 2`, where the Taylor series of degree 7 is
/// exact to f32.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Below this the result would be subnormal.
    const LOWEST: f32 = -87.0;
    /// Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln(2) in two parts, the first with so few bits that `n * LN2_HIGH` is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const TAYLOR: [f32; 8] = [
        1.0,
        1.0,
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5040.0,
    ];
    let bounded = if x < LOWEST { LOWEST } else { x };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * LN2_HIGH - n * LN2_LOW;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let y = polynomial(TAYLOR, r) * power;
    if x < LOWEST { 0.0 } else { y }
}

/// Sums the lanes pairwise.
#[inline(always)]
fn total(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `f(x)`, in an order that depends on the length alone.
#[inline(always)]
pub(super) fn sum(xs: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = xs.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += f(*x);
    }
    total(lanes)
}

/// The sum of `f(x, y)` over pairs, in an order that depends on the length alone.
#[inline(always)]
pub(super) fn sum2(xs: &[f32], ys: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (mut xs, mut ys) = (xs.chunks_exact(LANES), ys.chunks_exact(LANES));
    for (x, y) in (&mut xs).zip(&mut ys) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += f(*x, *y);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(xs.remainder()).zip(ys.remainder()) {
        *lane += f(*x, *y);
    }
    total(lanes)
}

/// The largest value; NaN is ignored.
#[inline(always)]
pub(super) fn largest(xs: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = xs.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = larger(*lane, *x);
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_f32() {
        for step in 0..=175_000 {
            let x = step as f32 * 1e-3 - 87.0;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2e-7, "exp({x}): relative error {error}");
        }
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(
            (exp(0.0), exp(-87.1), exp(f32::NEG_INFINITY)),
            (1.0, 0.0, 0.0)
        );
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_cover_every_length() {
        for len in 0..100 {
            let xs: Vec<f32> = (0u8..len).map(f32::from).collect();
            let n = f32::from(len);
            assert_eq!(sum(&xs, |x| x), n * (n - 1.0) / 2.0);
            assert_eq!(sum2(&xs, &xs, |x, y| x - y + 1.0), n);
            let largest_wanted = if len == 0 { f32::NEG_INFINITY } else { n - 1.0 };
            assert_eq!(largest(&xs), largest_wanted);
        }
    }
}
