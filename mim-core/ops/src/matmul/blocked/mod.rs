//! Blocked matrix products that fit the caches, on AVX-512 (Goto and van de Geijn, "Anatomy of
//! High-Performance Matrix Multiplication", ACM TOMS 2008).
//!
//! Operands are packed into panels that the micro-kernel reads front to back. The smaller operand is packed whole.
//! The larger one is split: each thread packs the part for its share of the result, so that this operand goes through
//! memory only once. Every value is one sum over the inner axis in ascending order, cut at fixed places, so threads
//! never change a bit.
//!
//! Other machines and small f32 products use the crate `gemm`. The same scheme was tried with AVX2 (tiles of 6 rows of
//! two registers) and, for CPUs without bfloat16 instructions, with operands rounded while packing. It was not faster
//! than `gemm` on rounded copies.

#![expect(unsafe_code, reason = "threads write blocks of one output")]

mod amx;
mod cache;
mod kernel;
mod numbers;
mod pack;
mod register;

pub(super) use self::cache::l2;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use self::amx::{Amx, Hardware};
use self::kernel::{Avx512, Avx512Bf16, COLS, Kernel, Tile};
use self::pack::{Pack, Source, panels};
use super::args::{Accumulate, GemmArgs};
use super::{MatmulBlocks, Matrix};
use crate::Precision;
use crate::simd::{has_avx512, has_avx512_bf16};

/// Products with fewer multiplications run on the calling thread: waking the others would cost more.
const SMALL: usize = 1 << 18;

thread_local! {
    /// Packing buffer of each thread.
    static ROOM: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// A kernel, its precision, and the CPU check.
pub(super) struct GemmKernel {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests print the name"))]
    pub(super) name: &'static str,
    precision: Precision,
    available: fn() -> bool,
    run: for<'a> unsafe fn(GemmArgs<'a>),
}

/// Whether products in bf16 use tiles.
pub(crate) fn has_amx() -> bool {
    amx::available()
}

/// All kernels, the fastest of each precision first.
const KERNELS: &[GemmKernel] = &[
    GemmKernel::new::<Amx<Hardware>>("AMX", Precision::Bf16, amx::available),
    GemmKernel::new::<Avx512Bf16>("AVX512-BF16", Precision::Bf16, has_avx512_bf16),
    #[cfg(test)]
    GemmKernel::new::<Amx<amx::Emulated>>("AMX, emulated", Precision::Bf16, has_avx512_bf16),
    GemmKernel::new::<Avx512>("AVX-512", Precision::F32, has_avx512),
];

impl GemmKernel {
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

    /// Kernels available on this CPU, fastest first.
    pub(super) fn here(precision: Precision) -> impl Iterator<Item = &'static Self> {
        let fits = move |kernel: &&Self| kernel.precision == precision && (kernel.available)();
        KERNELS.iter().filter(fits)
    }

    /// # Safety
    ///
    /// The kernel must come from [`GemmKernel::here`], the inner sizes must match, and no size may be 0. `to` must be
    /// valid for `lhs.rows` rows of `rhs.cols` values that no one else touches, initialised if the product adds to
    /// them.
    pub(super) unsafe fn multiply(&self, call: GemmArgs<'_>) {
        // SAFETY: the caller's contract.
        unsafe { (self.run)(call) }
    }
}

/// # Safety
///
/// As [`GemmKernel::multiply`].
unsafe fn run<K: Kernel>(call: GemmArgs<'_>) {
    // SAFETY: the caller's contract.
    unsafe { Product::<K>::new(call).run() };
}

/// A product split into parts.
struct Product<'a, K> {
    call: GemmArgs<'a>,
    /// The operands; their lines are the rows and the columns of the result.
    sides: [Matrix<'a>; 2],
    /// Number of panels of each operand.
    panels: [usize; 2],
    /// Packed values per line.
    depth: usize,
    /// Packed values per line in one pass over a part.
    step: usize,
    /// Panels of each operand that are in use at a time.
    groups: [usize; 2],
    /// Parts of a product on several threads.
    parts: usize,
    /// The side that is split among the parts: the one with more lines.
    split: usize,
    parallel: bool,
    kernel: PhantomData<fn() -> K>,
}

/// A pass over the packed values from `start` to `start + depth` of a part.
struct Pass<'a> {
    start: usize,
    depth: usize,
    /// Panels of the split side from number `first` on, with only the packed values of this pass.
    own: &'a [u32],
    first: usize,
    /// All panels of the other side, in full depth.
    whole: &'a [u32],
}

impl<'a, K: Kernel> Product<'a, K> {
    const LINES: [usize; 2] = [K::ROWS, COLS];
    const PACK: [Pack; 2] = [K::pack_rows, K::pack_cols];

    fn new(call: GemmArgs<'a>) -> Self {
        let GemmArgs { lhs, rhs, .. } = call;
        let sides = [lhs, rhs.transposed()];
        let large = lhs.rows * lhs.cols * rhs.cols > SMALL;
        let blocks = MatmulBlocks::current();
        let bytes = [blocks.rows, blocks.cols];
        let depth = lhs.cols.div_ceil(K::GROUP).next_multiple_of(K::STEP);
        let step = depth
            .div_ceil(depth.div_ceil(K::DEPTH))
            .next_multiple_of(K::STEP);
        Self {
            call,
            sides,
            panels: [0, 1].map(|side| sides[side].rows.div_ceil(Self::LINES[side])),
            depth,
            step,
            groups: [0, 1].map(|side| cache::panels(bytes[side], Self::LINES[side] * step)),
            parts: blocks.parts * rayon::current_num_threads(),
            split: usize::from(sides[1].rows > sides[0].rows),
            parallel: call.parallel && rayon::current_num_threads() > 1 && large,
            kernel: PhantomData,
        }
    }

    /// # Safety
    ///
    /// As [`GemmKernel::multiply`].
    unsafe fn run(&self) {
        let (split, whole) = (self.split, 1 - self.split);
        let (matrix, lines) = (self.sides[whole], Self::LINES[whole]);
        let (pack, depth) = (Self::PACK[whole], self.depth);
        // SAFETY: the caller guarantees the instructions.
        let whole = unsafe { panels(matrix, lines, depth, pack, self.parallel) };
        let least = match self.parallel {
            true => self.parts,
            false => 1,
        };
        let panels = self.panels[split];
        let size = panels.div_ceil(panels.div_ceil(self.groups[split]).max(least));
        let part = |index: usize| {
            let own = index * size..((index + 1) * size).min(panels);
            // SAFETY: parts do not overlap, and the caller guarantees the rest.
            ROOM.with_borrow_mut(|room| unsafe { self.part(own, &whole, room) });
        };
        let parts = panels.div_ceil(size);
        if self.parallel {
            (0..parts).into_par_iter().with_max_len(1).for_each(part);
        } else {
            (0..parts).for_each(part);
        }
    }

    /// Computes all tiles of the panels `own` of the split side; `whole` holds the panels of the other side.
    ///
    /// # Safety
    ///
    /// As [`GemmKernel::multiply`], for the values of these tiles.
    unsafe fn part(&self, own: Range<usize>, whole: &[u32], room: &mut Vec<u32>) {
        let (split, lines) = (self.split, Self::LINES[self.split]);
        if room.len() < own.len() * self.step * lines {
            room.resize(own.len() * self.step * lines, 0);
        }
        // SAFETY: the caller guarantees the instructions.
        unsafe { K::begin() };
        for start in (0..self.depth).step_by(self.step) {
            let depth = self.step.min(self.depth - start);
            let matrix = self.sides[split].cols_from(start * K::GROUP, depth * K::GROUP);
            let room = &mut room[..own.len() * depth * lines];
            let source = Source {
                matrix,
                first: own.start,
                count: own.len(),
                depth,
            };
            // SAFETY: there is room for these panels; the caller guarantees the instructions.
            unsafe { Self::PACK[split](source, room.as_mut_ptr()) };
            let pass = Pass {
                start,
                depth,
                own: room,
                first: own.start,
                whole,
            };
            let all = |side: usize| match side == split {
                true => own.clone(),
                false => 0..self.panels[side],
            };
            for rows in groups(all(0), self.groups[0]) {
                for cols in groups(all(1), self.groups[1]) {
                    // SAFETY: the caller guarantees these tiles.
                    unsafe { self.tiles(&pass, rows.clone(), cols) };
                }
            }
        }
        // SAFETY: as above.
        unsafe { K::end() };
    }

    /// The packed values of one panel in a pass.
    fn panel<'b>(&self, pass: &Pass<'b>, side: usize, index: usize) -> &'b [u32] {
        let lines = Self::LINES[side];
        let (packed, start) = match side == self.split {
            true => (pass.own, (index - pass.first) * pass.depth),
            false => (pass.whole, index * self.depth + pass.start),
        };
        &packed[start * lines..][..pass.depth * lines]
    }

    /// Computes the tiles where these row and column panels meet, for one pass.
    ///
    /// # Safety
    ///
    /// As [`GemmKernel::multiply`], for the values of these tiles.
    unsafe fn tiles(&self, pass: &Pass<'_>, rows: Range<usize>, cols: Range<usize>) {
        let to = self.call.to;
        for row in rows {
            let left = self.panel(pass, 0, row);
            for col in cols.clone() {
                let place = [row * K::ROWS * to.row_stride, col * COLS];
                let tile = Tile {
                    start: to.start.wrapping_add(place[0] + place[1]),
                    row_stride: to.row_stride,
                    rows: (self.sides[0].rows - row * K::ROWS).min(K::ROWS),
                    cols: (self.sides[1].rows - col * COLS).min(COLS),
                    scale: self.call.scale,
                    init: match to.init {
                        _ if pass.start > 0 => Accumulate::Sum,
                        init => init.at(place[0], place[1]),
                    },
                };
                // SAFETY: the panels have one depth, the tile lies inside the result, and the caller guarantees
                // the instructions.
                unsafe { K::compute(&tile, left, self.panel(pass, 1, col)) };
            }
        }
    }
}

/// Splits a range into groups of `size`.
fn groups(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(size)
        .map(move |first| first..(first + size).min(end))
}
