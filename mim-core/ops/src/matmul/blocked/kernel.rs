//! The micro-kernel: a tile of the output in registers.

#![expect(unsafe_code, reason = "register instructions on raw pointers")]

use std::arch::x86_64::{__m512, _mm512_add_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps};

use super::numbers::{Numbers, Pairs, Single};
use super::pack::panel;
use super::register::{LANES, load, store};
use crate::matmul::Matrix;
use crate::matmul::args::Accumulate;

/// Columns per tile: two registers.
pub(super) const COLS: usize = 2 * LANES;
/// Rows per tile in registers: 14 x 2 sums, two registers of the right operand and one of the left, 31 of 32.
const ROWS: usize = 14;

/// Packing and tile computation, compiled for a set of instructions.
///
/// # Safety
///
/// All functions need these instructions: AVX-512 (F, BW, DQ, VL), and those that the kernel names.
pub(super) trait Kernel: Sized {
    /// Numbers per packed value.
    const GROUP: usize;
    /// The number of packed values per line is padded with zeros to a multiple of this.
    const STEP: usize = 1;
    /// Rows per tile: lines in a panel of the left operand.
    const ROWS: usize;
    /// Row panels per group.
    const ROW_PANELS: usize;

    /// Prepares this thread for computing tiles, until [`Kernel::end`].
    unsafe fn begin() {}

    /// Undoes [`Kernel::begin`].
    unsafe fn end() {}

    /// Packs lines of the left operand, starting at `first`, into a panel; `to` must have room for it.
    unsafe fn pack_rows(matrix: Matrix<'_>, first: usize, to: *mut u32);

    /// As [`Kernel::pack_rows`] for columns of the right operand, which are lines of `matrix`.
    unsafe fn pack_cols(matrix: Matrix<'_>, first: usize, to: *mut u32);

    /// Writes the product of two panels of equal depth, or adds it to the tile. The tile must be valid for writes, and
    /// for reads if it is added to.
    unsafe fn compute(tile: &Tile<'_>, left: &[u32], right: &[u32]);
}

/// A kernel that accumulates in registers.
macro_rules! kernel {
    ($(#[$meta:meta])* $name:ident: $numbers:ty, $features:literal) => {
        $(#[$meta])*
        pub(super) struct $name;

        impl Kernel for $name {
            const GROUP: usize = <$numbers>::GROUP;
            const ROWS: usize = ROWS;
            const ROW_PANELS: usize = 8;

            #[target_feature(enable = $features)]
            unsafe fn pack_rows(matrix: Matrix<'_>, first: usize, to: *mut u32) {
                // SAFETY: the caller's contract.
                unsafe { panel::<$numbers, ROWS>(matrix, first, to) }
            }

            #[target_feature(enable = $features)]
            unsafe fn pack_cols(matrix: Matrix<'_>, first: usize, to: *mut u32) {
                // SAFETY: the caller's contract.
                unsafe { panel::<$numbers, COLS>(matrix, first, to) }
            }

            #[target_feature(enable = $features)]
            unsafe fn compute(tile: &Tile<'_>, left: &[u32], right: &[u32]) {
                // SAFETY: the caller's contract.
                unsafe {
                    match (tile.rows, tile.cols <= LANES) {
                        (..=4, true) => tile.compute::<$numbers, 4, 1>(left, right),
                        (..=4, false) => tile.compute::<$numbers, 4, 2>(left, right),
                        (..=8, true) => tile.compute::<$numbers, 8, 1>(left, right),
                        (..=8, false) => tile.compute::<$numbers, 8, 2>(left, right),
                        (_, true) => tile.compute::<$numbers, ROWS, 1>(left, right),
                        (_, false) => tile.compute::<$numbers, ROWS, 2>(left, right),
                    }
                }
            }
        }
    };
}

kernel! {
    /// f32 operands.
    Avx512: Single, "avx512f,avx512bw,avx512dq,avx512vl"
}
kernel! {
    /// Operands rounded to bfloat16; needs AVX512-BF16.
    Avx512Bf16: Pairs, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
}

/// A part of the output, at most [`Kernel::ROWS`] x [`COLS`] values.
pub(super) struct Tile<'a> {
    pub(super) start: *mut f32,
    pub(super) row_stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) scale: f32,
    pub(super) init: Accumulate<'a>,
}

impl Tile<'_> {
    /// [`Kernel::compute`] for panels of [`ROWS`] and [`COLS`] lines. The tile has at most `R` rows and `C`
    /// registers of columns.
    ///
    /// # Safety
    ///
    /// As for [`Kernel::compute`].
    #[inline(always)]
    unsafe fn compute<N: Numbers, const R: usize, const C: usize>(
        &self,
        left: &[u32],
        right: &[u32],
    ) {
        // SAFETY: the caller guarantees the instructions.
        let mut sums = unsafe { [[_mm512_setzero_ps(); C]; R] };
        let (left, _) = left.as_chunks::<ROWS>();
        let (right, _) = right.as_chunks::<COLS>();
        for (left, right) in left.iter().zip(right) {
            // SAFETY: a chunk holds two registers; the caller guarantees the instructions.
            unsafe {
                let mut registers = [load(right.as_ptr().cast(), LANES); C];
                if C > 1 {
                    registers[1] = load(right[LANES..].as_ptr().cast(), LANES);
                }
                for (sums, left) in sums.iter_mut().zip(left) {
                    for (sum, right) in sums.iter_mut().zip(registers) {
                        *sum = N::add_product(*sum, *left, right);
                    }
                }
            }
        }
        // SAFETY: the caller guarantees the tile.
        unsafe { self.store(&sums) };
    }

    /// Writes the scaled sums, or adds them.
    ///
    /// # Safety
    ///
    /// As [`Kernel::compute`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn store<const C: usize>(&self, sums: &[[__m512; C]]) {
        let scale = _mm512_set1_ps(self.scale);
        for half in 0..C {
            let col = half * LANES;
            let lanes = self.cols.saturating_sub(col);
            // SAFETY: lanes and rows beyond the tile are neither read nor written; the caller guarantees those
            // inside, and `Accumulate` covers them.
            unsafe {
                let row = match self.init {
                    Accumulate::Row(row) | Accumulate::Rows { row, .. } => {
                        load(row.as_ptr().wrapping_add(col), lanes)
                    }
                    Accumulate::Zero | Accumulate::Sum => _mm512_setzero_ps(),
                };
                for (i, sums) in sums.iter().enumerate().take(self.rows) {
                    let place = i * self.row_stride + col;
                    let to = self.start.wrapping_add(place);
                    let from = match self.init {
                        Accumulate::Sum => load(to, lanes),
                        Accumulate::Rows { more, .. } => {
                            _mm512_add_ps(row, load(more.as_ptr().wrapping_add(place), lanes))
                        }
                        Accumulate::Zero | Accumulate::Row(_) => row,
                    };
                    let values = _mm512_add_ps(_mm512_mul_ps(sums[half], scale), from);
                    store(to, lanes, values);
                }
            }
        }
    }
}
