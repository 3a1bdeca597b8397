//! AVX-512 registers; their lanes hold f32 values, or any 32 bits that are only moved.

#![expect(unsafe_code, reason = "register instructions on raw pointers")]

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_castpd_ps, _mm512_castps_pd, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_setzero_pd, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};

/// f32 values per register.
pub(super) const LANES: usize = 16;

/// A mask of the first `count` lanes.
#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}

/// Loads the first `count` values, at most one register; the other lanes are zero.
///
/// # Safety
///
/// Needs AVX-512 (F). The loaded values must be valid for reads; the other lanes are not read.
#[inline(always)]
pub(super) unsafe fn load(from: *const f32, count: usize) -> __m512 {
    // SAFETY: no other lanes are read.
    unsafe { _mm512_maskz_loadu_ps(mask(count), from) }
}

/// Writes the first `count` lanes, at most one register.
///
/// # Safety
///
/// Needs AVX-512 (F). The written lanes must be valid for writes.
#[inline(always)]
pub(super) unsafe fn store(to: *mut f32, count: usize, values: __m512) {
    // SAFETY: no other lanes are written. A full store is faster without a mask.
    unsafe {
        if count >= LANES {
            _mm512_storeu_ps(to, values);
        } else {
            _mm512_mask_storeu_ps(to, mask(count), values);
        }
    }
}

/// Transposes a square of registers, in steps of 1, 2, 4 and 8 lanes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: &mut [__m512; LANES]) {
    let mut pairs = [_mm512_setzero_pd(); LANES];
    for i in (0..LANES).step_by(2) {
        pairs[i] = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i], rows[i + 1]));
        pairs[i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i], rows[i + 1]));
    }
    // Register 4 q + c receives column c of the four rows from 4 q on, once per quarter of 4 columns.
    let mut quads = [_mm512_setzero_ps(); LANES];
    for i in (0..LANES).step_by(4) {
        quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[i], pairs[i + 2]));
        quads[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[i], pairs[i + 2]));
        quads[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[i + 1], pairs[i + 3]));
        quads[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[i + 1], pairs[i + 3]));
    }
    for c in 0..4 {
        let [a, b, e, f] = [quads[c], quads[c + 4], quads[c + 8], quads[c + 12]];
        // Quarters 0 and 2, or 1 and 3, of two registers.
        let even = [
            _mm512_shuffle_f32x4::<0x88>(a, b),
            _mm512_shuffle_f32x4::<0x88>(e, f),
        ];
        let odd = [
            _mm512_shuffle_f32x4::<0xdd>(a, b),
            _mm512_shuffle_f32x4::<0xdd>(e, f),
        ];
        rows[c] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
        rows[c + 8] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
        rows[c + 4] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
        rows[c + 12] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
    }
}
