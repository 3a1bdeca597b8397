//! Matrix products in blocks that fit the caches, on AVX-512 (Goto and van de Geijn, "Anatomy of
//! High-Performance Matrix Multiplication", ACM TOMS 2008).
//!
//! Both operands are packed once into panels that the innermost loop reads front to back; then the result is
//! split into blocks that threads compute on their own. Every value is one sum over the inner axis in
//! ascending order, cut at fixed places, so that neither threads nor their number change a bit.
//!
//! Other machines are left to the crate `gemm`: the same scheme was tried with AVX2 (tiles of 6 rows of two
//! registers) and, for bfloat16 without instructions for it, with operands rounded as they are packed, and was
//! not faster than `gemm` on rounded copies.

#![expect(unsafe_code, reason = "threads write blocks of one result")]

mod amx;
mod kernel;
mod numbers;
mod pack;
mod register;

use rayon::prelude::*;

use self::amx::{Amx, Hardware};
use self::kernel::{COLS, Halves, Kernel, Tile, Whole};
use super::Matrix;
use super::cpu::{Call, Init};
use crate::ops::Precision;
use crate::ops::simd::{has_avx512, has_avx512_bf16};

/// Packed values of the inner axis that one pass over a block takes, so that a panel of rows stays in the
/// first-level cache.
const DEPTH: usize = 384;
/// Panels of columns of a block; they stay in the second-level cache.
const COL_PANELS: usize = 4;
/// Products with fewer multiplications run on the calling thread: it costs more to wake the others.
const SMALL: usize = 1 << 18;

/// A kernel, and when to take it.
pub(super) struct Way {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests name what fails"))]
    pub(super) name: &'static str,
    precision: Precision,
    available: fn() -> bool,
    run: for<'a> unsafe fn(Call<'a>),
}

/// All kernels, the fastest of each precision first.
const WAYS: &[Way] = &[
    Way::new::<Amx<Hardware>>("AMX", Precision::Bf16, amx::available),
    Way::new::<Halves>("AVX512-BF16", Precision::Bf16, has_avx512_bf16),
    #[cfg(test)]
    Way::new::<Amx<amx::Emulated>>("AMX, emulated", Precision::Bf16, has_avx512_bf16),
    Way::new::<Whole>("AVX-512", Precision::F32, has_avx512),
];

impl Way {
    const fn new<K: Kernel>(
        name: &'static str,
        precision: Precision,
        available: fn() -> bool,
    ) -> Self {
        Self {
            name,
            precision,
            available,
            run: run::<K>,
        }
    }

    /// Those that this machine can go, the fastest first.
    pub(super) fn here(precision: Precision) -> impl Iterator<Item = &'static Self> {
        let right = move |way: &&Self| way.precision == precision && (way.available)();
        WAYS.iter().filter(right)
    }

    /// # Safety
    ///
    /// This must be one of [`Way::here`], the inner sizes must agree, no size may be 0, and `to` must be good
    /// for `lhs.rows` rows of `rhs.cols` values that no one else touches, initialised ones if it adds to them.
    pub(super) unsafe fn multiply(&self, call: Call<'_>) {
        // SAFETY: the caller promises what is asked for.
        unsafe { (self.run)(call) }
    }
}

/// # Safety
///
/// As [`Way::multiply`].
unsafe fn run<K: Kernel>(call: Call<'_>) {
    let Call { lhs, rhs, .. } = call;
    let large = lhs.rows * lhs.cols * rhs.cols > SMALL;
    let product = Product::<K> {
        call,
        cols: rhs.transposed(),
        depth: lhs.cols.div_ceil(K::GROUP).next_multiple_of(K::STEP),
        kernel: std::marker::PhantomData,
    };
    // SAFETY: the caller promises what is asked for.
    unsafe { product.run(call.parallel && rayon::current_num_threads() > 1 && large) };
}

/// A product in blocks.
struct Product<'a, K> {
    call: Call<'a>,
    /// The right operand transposed, so that its lines are columns of the result.
    cols: Matrix<'a>,
    /// Packed values of a line.
    depth: usize,
    kernel: std::marker::PhantomData<fn() -> K>,
}

impl<K: Kernel> Product<'_, K> {
    /// # Safety
    ///
    /// As [`Way::multiply`].
    unsafe fn run(&self, parallel: bool) {
        // SAFETY: the caller vouches for the instructions.
        let pack = || unsafe {
            let depth = [self.call.lhs.cols.div_ceil(K::GROUP), self.depth];
            let rows = || pack::panels(self.call.lhs, K::ROWS, depth, K::pack_rows, parallel);
            let cols = || pack::panels(self.cols, COLS, depth, K::pack_cols, parallel);
            if parallel {
                rayon::join(rows, cols)
            } else {
                (rows(), cols())
            }
        };
        let (rows, cols) = pack();
        let panels = [
            self.call.lhs.rows.div_ceil(K::ROWS),
            self.cols.rows.div_ceil(COLS),
        ];
        let counts = [
            panels[0].div_ceil(K::ROW_PANELS),
            panels[1].div_ceil(COL_PANELS),
        ];
        let sides = [0, 1].map(|axis| panels[axis].div_ceil(counts[axis]));
        let block = |index: usize| {
            let at = [index % counts[0], index / counts[0]];
            let range = |axis: usize| {
                let first = at[axis] * sides[axis];
                first..(first + sides[axis]).min(panels[axis])
            };
            // SAFETY: blocks do not overlap, and the caller vouches for the rest.
            unsafe { self.block(&rows, &cols, [range(0), range(1)]) };
        };
        let blocks = counts[0] * counts[1];
        if parallel {
            // One at a time, so that no thread waits long for the last one.
            (0..blocks).into_par_iter().with_max_len(1).for_each(block);
        } else {
            (0..blocks).for_each(block);
        }
    }

    /// Computes the tiles where these panels of rows and columns meet.
    ///
    /// # Safety
    ///
    /// As [`Way::multiply`], for the values of these tiles.
    unsafe fn block(
        &self,
        rows: &[u32],
        cols: &[u32],
        [across, down]: [std::ops::Range<usize>; 2],
    ) {
        let to = self.call.to;
        let passes = self.depth.div_ceil(DEPTH);
        let step = self.depth.div_ceil(passes).next_multiple_of(K::STEP);
        // SAFETY: the caller vouches for the instructions.
        unsafe { K::begin() };
        for start in (0..self.depth).step_by(step) {
            let depth = step.min(self.depth - start);
            for i in across.clone() {
                let left = &rows[(i * self.depth + start) * K::ROWS..][..depth * K::ROWS];
                for j in down.clone() {
                    let right = &cols[(j * self.depth + start) * COLS..][..depth * COLS];
                    let tile = Tile {
                        start: to
                            .start
                            .wrapping_add(i * K::ROWS * to.row_stride + j * COLS),
                        row_stride: to.row_stride,
                        rows: (self.call.lhs.rows - i * K::ROWS).min(K::ROWS),
                        cols: (self.cols.rows - j * COLS).min(COLS),
                        scale: self.call.scale,
                        init: match to.init {
                            _ if start > 0 => Init::Sum,
                            init => init.at(i * K::ROWS * to.row_stride, j * COLS),
                        },
                    };
                    // SAFETY: the panels hold `depth` groups of lines, the tile lies inside the result, and
                    // the caller vouches for the instructions.
                    unsafe { K::compute(&tile, left, right) };
                }
            }
        }
        // SAFETY: as above.
        unsafe { K::end() };
    }
}
