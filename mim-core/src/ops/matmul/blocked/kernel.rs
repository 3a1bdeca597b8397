//! The innermost loop: a tile of the result in registers.

#![expect(unsafe_code, reason = "register instructions on raw pointers")]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm512_add_ps, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_epi16,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::pack::panel;
use crate::ops::matmul::Matrix;
use crate::ops::matmul::cpu::Init;

/// Rows of a tile: with two registers each, two of the right and one of the left operand, 31 of 32.
pub(super) const ROWS: usize = 14;
/// Columns of a tile: two registers.
pub(super) const COLS: usize = 2 * LANES;
/// f32 values of a register.
pub(super) const LANES: usize = 16;

/// The first `count` lanes.
pub(super) fn mask(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}

/// How values are packed and multiplied. A packed value is 32 bits: a group of [`Kernel::GROUP`] numbers that
/// are neighbours on the inner axis.
///
/// # Safety
///
/// All functions need AVX-512 (F, BW, DQ, VL), and what the kernel asks for beyond it.
pub(super) trait Kernel: Sized {
    /// Numbers in a packed value.
    const GROUP: usize;

    /// The packed values of one line, from `from` on, where `left` numbers are left; zeros behind them.
    unsafe fn along(from: *const f32, left: usize) -> __m512i;

    /// One packed value of each of up to 16 lines that lie side by side: `from` is their first number, the
    /// next is `stride` values further if `left` is more than 1.
    unsafe fn across(from: *const f32, stride: usize, left: usize, lines: __mmask16) -> __m512i;

    /// `sum + left * right` with the same left value in all lanes.
    unsafe fn add_product(sum: __m512, left: u32, right: __m512i) -> __m512;

    /// [`panel`] compiled for the kernel's instructions.
    unsafe fn pack<const W: usize>(matrix: Matrix<'_>, first: usize, to: *mut u32);

    /// [`Tile::compute`] compiled for the kernel's instructions.
    unsafe fn compute(tile: &Tile<'_>, left: &[u32], right: &[u32]);
}

/// The two loops of a kernel, compiled for its instructions.
macro_rules! compiled_for {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn pack<const W: usize>(matrix: Matrix<'_>, first: usize, to: *mut u32) {
            // SAFETY: as the caller promises.
            unsafe { panel::<Self, W>(matrix, first, to) }
        }

        #[target_feature(enable = $features)]
        unsafe fn compute(tile: &Tile<'_>, left: &[u32], right: &[u32]) {
            // SAFETY: as the caller promises.
            unsafe { tile.compute::<Self>(left, right) }
        }
    };
}

/// f32 operands.
pub(super) struct F32;

impl Kernel for F32 {
    const GROUP: usize = 1;

    #[inline(always)]
    unsafe fn along(from: *const f32, left: usize) -> __m512i {
        // SAFETY: the lanes beyond `left` are not read.
        unsafe { _mm512_castps_si512(_mm512_maskz_loadu_ps(mask(left), from)) }
    }

    #[inline(always)]
    unsafe fn across(from: *const f32, _: usize, _: usize, lines: __mmask16) -> __m512i {
        // SAFETY: the caller vouches for the lines.
        unsafe { _mm512_castps_si512(_mm512_maskz_loadu_ps(lines, from)) }
    }

    #[inline(always)]
    unsafe fn add_product(sum: __m512, left: u32, right: __m512i) -> __m512 {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            let left = _mm512_set1_ps(f32::from_bits(left));
            _mm512_fmadd_ps(left, _mm512_castsi512_ps(right), sum)
        }
    }

    compiled_for!("avx512f,avx512bw,avx512dq,avx512vl");
}

/// Operands rounded to bfloat16, two to a packed value; needs AVX512-BF16. The instruction adds the two
/// products without rounding in between and takes subnormal numbers for zero.
pub(super) struct Bf16;

/// The 32 numbers of `low` and `high`, rounded.
///
/// # Safety
///
/// Needs AVX512-BF16.
#[inline(always)]
unsafe fn round(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both types are 512 bits of any value; the caller vouches for the instruction.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

impl Kernel for Bf16 {
    const GROUP: usize = 2;

    #[inline(always)]
    unsafe fn along(from: *const f32, left: usize) -> __m512i {
        // SAFETY: the lanes beyond `left` are not read.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask(left), from);
            let rest = mask(left.saturating_sub(LANES));
            let high = _mm512_maskz_loadu_ps(rest, from.wrapping_add(LANES));
            round(low, high)
        }
    }

    #[inline(always)]
    unsafe fn across(from: *const f32, stride: usize, left: usize, lines: __mmask16) -> __m512i {
        /// Takes the lower and the upper half in turns.
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
        // SAFETY: the caller vouches for the lines; the second number is only read where there is one.
        unsafe {
            let low = _mm512_maskz_loadu_ps(lines, from);
            let second = if left > 1 { lines } else { 0 };
            let high = _mm512_maskz_loadu_ps(second, from.wrapping_add(stride));
            let turns = _mm512_loadu_si512(TURNS.as_ptr().cast());
            _mm512_permutexvar_epi16(turns, round(low, high))
        }
    }

    #[inline(always)]
    unsafe fn add_product(sum: __m512, left: u32, right: __m512i) -> __m512 {
        // SAFETY: the types are 512 bits of any value; the caller vouches for the instructions.
        unsafe {
            let left = _mm512_set1_epi32(left.cast_signed());
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512i, __m512bh>(left),
                std::mem::transmute::<__m512i, __m512bh>(right),
            )
        }
    }

    compiled_for!("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16");
}

/// A part of the result of at most [`ROWS`] x [`COLS`] values.
pub(super) struct Tile<'a> {
    pub(super) start: *mut f32,
    pub(super) row_stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) scale: f32,
    pub(super) init: Init<'a>,
}

impl Tile<'_> {
    /// Writes the product of two panels, or adds it.
    ///
    /// # Safety
    ///
    /// Needs AVX-512 and what `K` asks for; the tile must be good for writing, and for reading if it is added
    /// to; `left` and `right` must be panels of the same depth.
    #[inline(always)]
    unsafe fn compute<K: Kernel>(&self, left: &[u32], right: &[u32]) {
        // SAFETY: the caller vouches for the instructions.
        let mut sums = unsafe { [[_mm512_setzero_ps(); 2]; ROWS] };
        let (left, _) = left.as_chunks::<ROWS>();
        let (right, _) = right.as_chunks::<COLS>();
        for (left, right) in left.iter().zip(right) {
            // SAFETY: a chunk holds two registers; the caller vouches for the instructions.
            unsafe {
                let right = [0, LANES].map(|at| _mm512_loadu_si512(right[at..].as_ptr().cast()));
                for (sums, left) in sums.iter_mut().zip(left) {
                    sums[0] = K::add_product(sums[0], *left, right[0]);
                    sums[1] = K::add_product(sums[1], *left, right[1]);
                }
            }
        }
        // SAFETY: the caller vouches for the tile.
        unsafe { self.store(&sums) };
    }

    /// # Safety
    ///
    /// As [`Tile::compute`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(&self, sums: &[[__m512; 2]; ROWS]) {
        let scale = _mm512_set1_ps(self.scale);
        for half in [0, 1] {
            let lanes = mask(self.cols.saturating_sub(half * LANES));
            let col = half * LANES;
            // SAFETY: lanes beyond the tile's columns are neither read nor written, nor are rows beyond its
            // rows; the caller vouches for those inside, and `Init` covers them.
            unsafe {
                let row = match self.init {
                    Init::Row(row) | Init::Rows { row, .. } => {
                        load(row.as_ptr().wrapping_add(col), lanes)
                    }
                    Init::Zero | Init::Sum => _mm512_setzero_ps(),
                };
                for (i, sums) in sums.iter().enumerate().take(self.rows) {
                    let place = i * self.row_stride + col;
                    let to = self.start.wrapping_add(place);
                    let from = match self.init {
                        Init::Sum => load(to, lanes),
                        Init::Rows { more, .. } => {
                            _mm512_add_ps(row, load(more.as_ptr().wrapping_add(place), lanes))
                        }
                        Init::Zero | Init::Row(_) => row,
                    };
                    let value = _mm512_add_ps(_mm512_mul_ps(sums[half], scale), from);
                    if lanes == !0 {
                        // Faster than with a mask.
                        _mm512_storeu_ps(to, value);
                    } else {
                        _mm512_mask_storeu_ps(to, lanes, value);
                    }
                }
            }
        }
    }
}

/// The lanes of `lanes`, zeros in the others.
///
/// # Safety
///
/// They must be good for reading.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const f32, lanes: __mmask16) -> __m512 {
    // SAFETY: no other lanes are read.
    unsafe { _mm512_maskz_loadu_ps(lanes, from) }
}
