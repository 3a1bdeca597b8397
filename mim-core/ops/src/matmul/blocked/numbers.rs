//! Number formats: packing and multiplication.

#![expect(unsafe_code, reason = "register instructions on raw pointers")]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh,
    _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_permutexvar_epi16,
    _mm512_set1_epi32, _mm512_set1_ps,
};

use super::register::{LANES, load};

/// A packed value has 32 bits: [`Numbers::GROUP`] numbers that are adjacent on the inner axis.
///
/// # Safety
///
/// All functions need AVX-512 (F, BW, DQ, VL) and the instructions that the type names.
pub(super) trait Numbers {
    /// Numbers per packed value.
    const GROUP: usize;

    /// Packs numbers of one line, starting at `from`; `left` numbers remain, and zeros follow.
    unsafe fn along(from: *const f32, left: usize) -> __m512;

    /// Packs one value from each of `lines` adjacent lines. `from` points to their first numbers; the next numbers
    /// are `stride` values further if `left` is more than 1. There may be more lines than lanes.
    unsafe fn across(from: *const f32, stride: usize, left: usize, lines: usize) -> __m512;

    /// `sum + left * right`, with the same left value in all lanes.
    unsafe fn add_product(sum: __m512, left: u32, right: __m512) -> __m512;
}

/// f32; each number is a packed value.
pub(super) struct Single;

impl Numbers for Single {
    const GROUP: usize = 1;

    #[inline(always)]
    unsafe fn along(from: *const f32, left: usize) -> __m512 {
        // SAFETY: at most `left` values are read; the caller guarantees the instructions.
        unsafe { load(from, left) }
    }

    #[inline(always)]
    unsafe fn across(from: *const f32, _: usize, _: usize, lines: usize) -> __m512 {
        // SAFETY: the caller guarantees the lines.
        unsafe { load(from, lines) }
    }

    #[inline(always)]
    unsafe fn add_product(sum: __m512, left: u32, right: __m512) -> __m512 {
        // SAFETY: the caller guarantees the instructions.
        unsafe { _mm512_fmadd_ps(_mm512_set1_ps(f32::from_bits(left)), right, sum) }
    }
}

/// Numbers rounded to bfloat16, two per packed value; needs AVX512-BF16. The instruction adds the two
/// products without intermediate rounding and treats subnormal numbers as zero.
pub(super) struct Pairs;

/// Rounds the 32 numbers of `low` and `high`.
///
/// # Safety
///
/// Needs AVX512-BF16.
#[inline(always)]
unsafe fn round(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both types are 512 bits of any value; the caller guarantees the instruction.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

impl Numbers for Pairs {
    const GROUP: usize = 2;

    #[inline(always)]
    unsafe fn along(from: *const f32, left: usize) -> __m512 {
        // SAFETY: at most `left` values are read; the caller guarantees the instructions.
        unsafe {
            let low = load(from, left);
            let high = load(from.wrapping_add(LANES), left.saturating_sub(LANES));
            _mm512_castsi512_ps(round(low, high))
        }
    }

    #[inline(always)]
    unsafe fn across(from: *const f32, stride: usize, left: usize, lines: usize) -> __m512 {
        /// Interleaves the lower and the upper half.
        const TURNS: [u16; 32] = {
            let mut turns = [0; 32];
            let mut lane = 0u16;
            while lane < 16 {
                turns[2 * lane as usize] = lane;
                turns[2 * lane as usize + 1] = lane + 16;
                lane += 1;
            }
            turns
        };
        // SAFETY: the caller guarantees the lines; the second number is read only if it exists.
        unsafe {
            let low = load(from, lines);
            let second = if left > 1 { lines } else { 0 };
            let high = load(from.wrapping_add(stride), second);
            let turns = _mm512_loadu_si512(TURNS.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(turns, round(low, high)))
        }
    }

    #[inline(always)]
    unsafe fn add_product(sum: __m512, left: u32, right: __m512) -> __m512 {
        // SAFETY: the types are 512 bits of any value; the caller guarantees the instructions.
        unsafe {
            let left = _mm512_set1_epi32(left.cast_signed());
            let right = _mm512_castps_si512(right);
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512i, __m512bh>(left),
                std::mem::transmute::<__m512i, __m512bh>(right),
            )
        }
    }
}
