//! The micro-kernel: a tile of the output in registers.

#![expect(unsafe_code, reason = "register instructions on raw pointers")]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_mul_ps, _mm512_set1_ps,
    _mm512_setzero_ps,
};

use super::numbers::{Numbers, Pairs, Single};
use super::pack::{Source, fill};
use super::register::{LANES, load, store};
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
    /// Most packed values per line in one pass (KC): the result is read and written again for each pass.
    const DEPTH: usize;

    /// Prepares this thread for computing tiles, until [`Kernel::end`].
    unsafe fn begin() {}

    /// Undoes [`Kernel::begin`].
    unsafe fn end() {}

    /// Packs panels of the left operand; `to` must have room for them.
    unsafe fn pack_rows(source: Source<'_>, to: *mut u32);

    /// As [`Kernel::pack_rows`] for columns of the right operand, which are the lines of the source.
    unsafe fn pack_cols(source: Source<'_>, to: *mut u32);

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
            const DEPTH: usize = 512;

            #[target_feature(enable = $features)]
            unsafe fn pack_rows(source: Source<'_>, to: *mut u32) {
                // SAFETY: the caller's contract.
                unsafe { fill::<$numbers, ROWS>(source, to) }
            }

            #[target_feature(enable = $features)]
            unsafe fn pack_cols(source: Source<'_>, to: *mut u32) {
                // SAFETY: the caller's contract.
                unsafe { fill::<$numbers, COLS>(source, to) }
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
        self.prefetch::<R>();
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

    /// Asks for the tile's memory, which is needed when the sums are ready.
    #[inline(always)]
    fn prefetch<const R: usize>(&self) {
        for row in 0..R.min(self.rows) {
            let start = self.start.wrapping_add(row * self.row_stride).cast::<i8>();
            for line in [0, 64] {
                // SAFETY: a prefetch has no effect but on caches, for any address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line)) };
            }
        }
    }

    /// Writes the scaled sums, or adds them.
    ///
    /// # Safety
    ///
    /// As [`Kernel::compute`].
    #[inline(never)]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn store<const C: usize>(&self, sums: &[[__m512; C]]) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.cols == C * LANES {
                self.write(sums, [LANES; C]);
            } else {
                self.write(
                    sums,
                    std::array::from_fn(|half| self.cols.saturating_sub(half * LANES)),
                );
            }
        }
    }

    /// [`Tile::store`] of this many lanes of each register.
    ///
    /// # Safety
    ///
    /// As [`Kernel::compute`].
    #[inline(always)]
    unsafe fn write<const C: usize>(&self, sums: &[[__m512; C]], lanes: [usize; C]) {
        // SAFETY: lanes and rows beyond the tile are neither read nor written; the caller guarantees those
        // inside, and `Accumulate` covers them.
        unsafe {
            let scale = _mm512_set1_ps(self.scale);
            let read = |from: *const f32| -> [__m512; C] {
                std::array::from_fn(|half| load(from.wrapping_add(half * LANES), lanes[half]))
            };
            let first = match self.init {
                Accumulate::Row(row) | Accumulate::Rows { row, .. } => read(row.as_ptr()),
                Accumulate::Zero | Accumulate::Sum => [_mm512_setzero_ps(); C],
            };
            let mut to = self.start;
            let mut more = match self.init {
                Accumulate::Sum => Some(to.cast_const()),
                Accumulate::Rows { more, .. } => Some(more.as_ptr()),
                Accumulate::Zero | Accumulate::Row(_) => None,
            };
            for sums in sums.iter().take(self.rows) {
                let mut from = first;
                if let Some(more) = &mut more {
                    for (from, more) in from.iter_mut().zip(read(*more)) {
                        *from = _mm512_add_ps(*from, more);
                    }
                    *more = more.wrapping_add(self.row_stride);
                }
                for half in 0..C {
                    let values = _mm512_add_ps(_mm512_mul_ps(sums[half], scale), from[half]);
                    store(to.wrapping_add(half * LANES), lanes[half], values);
                }
                to = to.wrapping_add(self.row_stride);
            }
        }
    }
}
