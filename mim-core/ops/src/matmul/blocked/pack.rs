//! Packs operands in the order in which the micro-kernel reads them.

#![expect(unsafe_code, reason = "register instructions on raw pointers")]

use std::arch::x86_64::_mm512_setzero_ps;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::numbers::Numbers;
use super::register::{LANES, store, transpose};
use crate::matmul::Matrix;

/// Panels that are packed together: neighbours share the cache lines of a matrix whose lines are adjacent in memory.
const TOGETHER: usize = 8;

/// Panels of an operand that are next to each other.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// Its rows are the lines of the operand.
    pub(super) matrix: Matrix<'a>,
    /// Number of the first panel, and how many follow with it.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Packed values per line, zeros at the end included.
    pub(super) depth: usize,
}

/// A function that packs panels: see [`Kernel::pack_rows`](super::kernel::Kernel::pack_rows).
pub(super) type Pack = unsafe fn(Source<'_>, *mut u32);

/// Packs all lines of `matrix` into panels of `lines` lines with `depth` packed values each.
///
/// # Safety
///
/// `pack` must belong to a kernel that this CPU supports, for panels of that many lines.
pub(super) unsafe fn panels(
    matrix: Matrix<'_>,
    lines: usize,
    depth: usize,
    pack: Pack,
    parallel: bool,
) -> Vec<u32> {
    let len = matrix.rows.div_ceil(lines) * depth * lines;
    let mut packed = Vec::<u32>::with_capacity(len);
    let room = &mut packed.spare_capacity_mut()[..len];
    let together = |(index, room): (usize, &mut [MaybeUninit<u32>])| {
        let source = Source {
            matrix,
            first: index * TOGETHER,
            count: room.len() / (depth * lines),
            depth,
        };
        // SAFETY: there is room for these panels, and the caller guarantees the rest.
        unsafe { pack(source, room.as_mut_ptr().cast()) };
    };
    let size = TOGETHER * depth * lines;
    if parallel {
        room.par_chunks_mut(size)
            .enumerate()
            .with_max_len(1)
            .for_each(together);
    } else {
        room.chunks_mut(size).enumerate().for_each(together);
    }
    // SAFETY: the panels cover the whole length.
    unsafe { packed.set_len(len) };
    packed
}

/// Packs panels of `W` lines: packed value `g` of line `l` of a panel goes to `g * W + l` of its room. Lines and values
/// beyond the matrix are zero.
///
/// # Safety
///
/// Needs the instructions of `N`; `to` must have room for the panels. `W` must be a multiple of [`LANES`], or smaller.
#[inline(always)]
pub(super) unsafe fn fill<N: Numbers, const W: usize>(source: Source<'_>, to: *mut u32) {
    let Source {
        matrix,
        first,
        count,
        depth,
    } = source;
    let groups = matrix.cols.div_ceil(N::GROUP);
    let rooms = (0..count).map(|panel| to.wrapping_add(panel * depth * W).cast::<f32>());
    for room in rooms.clone() {
        // SAFETY: there is room for `depth` values of each line.
        unsafe { room.add(groups * W).write_bytes(0, (depth - groups) * W) };
    }
    // SAFETY: the caller's contract.
    unsafe {
        if matrix.col_stride == 1 {
            for (panel, room) in rooms.enumerate() {
                along::<N, W>(matrix, (first + panel) * W, room);
            }
        } else {
            // Goes through memory in its own order: all lines of a group, then the next group.
            for group in 0..groups {
                for (panel, room) in rooms.clone().enumerate() {
                    across::<N, W>(matrix, (first + panel) * W, group, room);
                }
            }
        }
    }
}

/// Lanes of a store for lines from `block` on: all, if the next group overwrites the surplus ones.
#[inline(always)]
fn lanes(is_last: bool, width: usize, block: usize) -> usize {
    if is_last { width - block } else { LANES }
}

/// Packs a panel whose lines lie along memory.
///
/// # Safety
///
/// As [`fill`].
#[inline(always)]
unsafe fn along<N: Numbers, const W: usize>(matrix: Matrix<'_>, first: usize, to: *mut f32) {
    let groups = matrix.cols.div_ceil(N::GROUP);
    for block in (0..W).step_by(LANES) {
        let line = first + block;
        let lines = matrix.rows.saturating_sub(line).min(LANES);
        let start = matrix
            .values
            .as_ptr()
            .wrapping_add(line * matrix.row_stride);
        for group in (0..groups).step_by(LANES) {
            // SAFETY: only numbers of existing lines and columns are read, and only lines of the block are written.
            unsafe {
                let mut tile = [_mm512_setzero_ps(); LANES];
                for (line, row) in tile.iter_mut().enumerate().take(lines) {
                    let at = group * N::GROUP;
                    let from = start.wrapping_add(line * matrix.row_stride + at);
                    *row = N::along(from, matrix.cols - at);
                }
                transpose(&mut tile);
                let count = LANES.min(groups - group);
                for (i, values) in tile.iter().enumerate().take(count) {
                    let to = to.wrapping_add((group + i) * W + block);
                    store(to, lanes(group + i + 1 == groups, W, block), *values);
                }
            }
        }
    }
}

/// Packs one value of each line of a panel, for lines that are adjacent in memory.
///
/// # Safety
///
/// As [`fill`].
#[inline(always)]
unsafe fn across<N: Numbers, const W: usize>(
    matrix: Matrix<'_>,
    first: usize,
    group: usize,
    to: *mut f32,
) {
    let (at, stride) = (group * N::GROUP, matrix.col_stride);
    let last = at + N::GROUP >= matrix.cols;
    for block in (0..W).step_by(LANES) {
        let line = first + block;
        let lines = matrix.rows.saturating_sub(line).min(LANES);
        let from = matrix.values.as_ptr().wrapping_add(line + at * stride);
        // SAFETY: only numbers of existing lines and columns are read, and only lines of the block are written.
        unsafe {
            let values = N::across(from, stride, matrix.cols - at, lines);
            let to = to.wrapping_add(group * W + block);
            store(to, lanes(last, W, block), values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{Avx512, Avx512Bf16, COLS, Kernel};
    use super::*;
    use crate::bfloat::round_one;
    use crate::simd::{has_avx512, has_avx512_bf16};

    /// Checks the panels of both sides: packed value `g` of line `l` of panel `p` is at `(p * depth + g) * lines + l`,
    /// for either memory order of the matrix.
    ///
    /// # Safety
    ///
    /// The CPU must support the instructions of the kernel.
    unsafe fn check<K: Kernel>(value: fn(&[f32]) -> u32) {
        for [rows, cols] in [[1, 1], [6, 8], [14, 16], [15, 33], [33, 5], [300, 40]] {
            let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32).sqrt()).collect();
            let straight = Matrix::dense(&values, rows, cols).unwrap();
            let mut turned = vec![0.; rows * cols];
            for (at, value) in values.iter().enumerate() {
                turned[at % cols * rows + at / cols] = *value;
            }
            let turned = Matrix::dense(&turned, cols, rows).unwrap().transposed();
            let depth = cols.div_ceil(K::GROUP);
            let sides: [(usize, Pack); 2] = [(K::ROWS, K::pack_rows), (COLS, K::pack_cols)];
            for (lines, pack) in sides {
                let mut wanted = vec![0; rows.div_ceil(lines) * depth * lines];
                for (row, values) in values.chunks(cols).enumerate() {
                    for (group, numbers) in values.chunks(K::GROUP).enumerate() {
                        let panel = row / lines * depth;
                        wanted[(panel + group) * lines + row % lines] = value(numbers);
                    }
                }
                for (matrix, parallel) in [(straight, false), (turned, true)] {
                    // SAFETY: the caller guarantees the instructions.
                    let got = unsafe { panels(matrix, lines, depth, pack, parallel) };
                    assert_eq!(got, wanted, "{rows} x {cols} in panels of {lines} lines");
                }
            }
        }
    }

    #[test]
    fn both_orientations_give_the_same_panels() {
        let whole = |numbers: &[f32]| numbers[0].to_bits();
        let pair = |numbers: &[f32]| {
            let halves = numbers.iter().map(|x| u32::from(round_one(*x)));
            halves.rev().fold(0, |high, low| high << 16 | low)
        };
        // SAFETY: the line above each call checks for the instructions.
        unsafe {
            if has_avx512() {
                check::<Avx512>(whole);
            }
            if has_avx512_bf16() {
                check::<Avx512Bf16>(pair);
            }
        }
    }

    #[test]
    fn depth_is_padded_with_zeros() {
        if !has_avx512() {
            return;
        }
        let matrix = Matrix::dense(&[1.; 9], 3, 3).unwrap();
        for matrix in [matrix, matrix.transposed()] {
            // SAFETY: the line above checks for the instructions.
            let packed = unsafe { panels(matrix, COLS, 4, Avx512::pack_cols, false) };
            let line = |count: usize| (0..COLS).map(move |line| f32::from(line < count).to_bits());
            let wanted: Vec<u32> = [3, 3, 3, 0].into_iter().flat_map(line).collect();
            assert_eq!(packed, wanted);
        }
    }
}
