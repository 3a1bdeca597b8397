//! Matrix products in blocks that fit the caches, on AVX-512 (Goto and van de Geijn, "Anatomy of
//! High-Performance Matrix Multiplication", ACM TOMS 2008).
//!
//! Both operands are packed once into panels that the innermost loop reads front to back; then the result is
//! split into blocks that threads compute on their own. Every value is one sum over the inner axis in
//! ascending order, cut at fixed places, so that neither threads nor their number change a bit.

#![expect(unsafe_code, reason = "threads write blocks of one result")]

mod kernel;
mod pack;

use rayon::prelude::*;

use self::kernel::{Bf16, COLS, F32, Kernel, ROWS, Tile};
use super::Matrix;
use super::cpu::{Destination, Init};
use crate::ops::Precision;
use crate::ops::simd::{has_avx512, has_avx512_bf16};

/// Packed values of the inner axis that one pass over a block takes, so that a panel of rows stays in the
/// first-level cache.
const DEPTH: usize = 384;
/// Panels of rows and of columns of a block; its panels of columns stay in the second-level cache.
const BLOCK: [usize; 2] = [10, 4];
/// Products with fewer multiplications run on the calling thread: it costs more to wake the others.
const SMALL: usize = 1 << 18;

/// Whether this machine has the instructions.
pub(super) fn available(precision: Precision) -> bool {
    match precision {
        Precision::F32 => has_avx512(),
        Precision::Bf16 => has_avx512_bf16(),
    }
}

/// `to = scale * lhs * rhs`, added to what `to` starts from.
///
/// # Safety
///
/// [`available`] must have said yes to `precision`, the inner sizes must agree, no size may be 0, and `to` must be
/// good for `lhs.rows` rows of `rhs.cols` values that no one else touches, initialised ones if it adds to them.
pub(super) unsafe fn multiply(
    to: Destination<'_>,
    scale: f32,
    [lhs, rhs]: [Matrix<'_>; 2],
    precision: Precision,
    parallel: bool,
) {
    let parallel =
        parallel && rayon::current_num_threads() > 1 && lhs.rows * lhs.cols * rhs.cols > SMALL;
    // SAFETY: the caller's promises are those that are asked for here.
    unsafe {
        match precision {
            Precision::F32 => Product::<F32>::new(to, scale, lhs, rhs).run(parallel),
            Precision::Bf16 => Product::<Bf16>::new(to, scale, lhs, rhs).run(parallel),
        }
    }
}

/// Both operands packed, and where their product goes.
struct Product<'a, K> {
    to: Destination<'a>,
    scale: f32,
    lhs: Matrix<'a>,
    /// Transposed, so that its lines are columns of the result.
    rhs: Matrix<'a>,
    /// Packed values of a line.
    depth: usize,
    kernel: std::marker::PhantomData<K>,
}

// SAFETY: threads write through `to` to blocks of their own.
unsafe impl<K> Sync for Product<'_, K> {}

impl<'a, K: Kernel> Product<'a, K> {
    fn new(to: Destination<'a>, scale: f32, lhs: Matrix<'a>, rhs: Matrix<'a>) -> Self {
        Self {
            to,
            scale,
            lhs,
            rhs: rhs.transposed(),
            depth: lhs.cols.div_ceil(K::GROUP),
            kernel: std::marker::PhantomData,
        }
    }

    /// # Safety
    ///
    /// As [`multiply`].
    unsafe fn run(&self, parallel: bool) {
        // SAFETY: the caller vouches for the instructions.
        let pack = || unsafe {
            let rows = || pack::panels::<K, ROWS>(self.lhs, parallel);
            let cols = || pack::panels::<K, COLS>(self.rhs, parallel);
            if parallel {
                rayon::join(rows, cols)
            } else {
                (rows(), cols())
            }
        };
        let (rows, cols) = pack();
        let panels = [self.lhs.rows.div_ceil(ROWS), self.rhs.rows.div_ceil(COLS)];
        let counts = [0, 1].map(|axis| panels[axis].div_ceil(BLOCK[axis]));
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
    /// As [`multiply`], for the values of these tiles.
    unsafe fn block(
        &self,
        rows: &[u32],
        cols: &[u32],
        [across, down]: [std::ops::Range<usize>; 2],
    ) {
        let passes = self.depth.div_ceil(DEPTH);
        let step = self.depth.div_ceil(passes);
        for start in (0..self.depth).step_by(step) {
            let depth = step.min(self.depth - start);
            for i in across.clone() {
                let left = &rows[(i * self.depth + start) * ROWS..][..depth * ROWS];
                for j in down.clone() {
                    let right = &cols[(j * self.depth + start) * COLS..][..depth * COLS];
                    let tile = Tile {
                        start: self
                            .to
                            .start
                            .wrapping_add(i * ROWS * self.to.row_stride + j * COLS),
                        row_stride: self.to.row_stride,
                        rows: (self.lhs.rows - i * ROWS).min(ROWS),
                        cols: (self.rhs.rows - j * COLS).min(COLS),
                        scale: self.scale,
                        init: match self.to.init {
                            _ if start > 0 => Init::Sum,
                            init => init.at(i * ROWS * self.to.row_stride, j * COLS),
                        },
                    };
                    // SAFETY: the panels hold `depth` groups of lines, the tile lies inside the result, and
                    // the caller vouches for the instructions.
                    unsafe { K::compute(&tile, left, right) };
                }
            }
        }
    }
}
