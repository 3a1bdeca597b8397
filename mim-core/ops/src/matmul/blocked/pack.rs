//! Packs operands in the order in which the micro-kernel reads them.

#![expect(unsafe_code, reason = "register instructions on raw pointers")]

use std::arch::x86_64::_mm512_setzero_ps;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::numbers::Numbers;
use super::register::{LANES, store, transpose};
use crate::matmul::Matrix;

/// Numbers per packed value, and a function that packs the lines of a matrix from an index on: see
/// [`Kernel::pack_rows`](super::kernel::Kernel::pack_rows).
pub(super) type Pack = (usize, unsafe fn(Matrix<'_>, usize, *mut u32));

/// Packs the rows of `matrix` into panels of `lines` lines with `depth` packed values each.
///
/// # Safety
///
/// As [`one_panel`].
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
    let pack = |(index, room): (usize, &mut [MaybeUninit<u32>])| {
        let to = room.as_mut_ptr().cast();
        // SAFETY: there is room for a panel, and the caller guarantees the rest.
        unsafe { one_panel(matrix, index * lines, [lines, depth], pack, to) };
    };
    if parallel {
        room.par_chunks_mut(depth * lines)
            .enumerate()
            .with_max_len(1)
            .for_each(pack);
    } else {
        room.chunks_mut(depth * lines).enumerate().for_each(pack);
    }
    // SAFETY: the panels cover the whole length.
    unsafe { packed.set_len(len) };
    packed
}

/// Packs the lines from `first` on into a panel of `lines` lines of `depth` packed values; lines beyond the
/// matrix are zero.
///
/// # Safety
///
/// `pack` must belong to a kernel that this CPU supports, for panels of that many lines. `to` must have room for the
/// panel.
pub(super) unsafe fn one_panel(
    matrix: Matrix<'_>,
    first: usize,
    [lines, depth]: [usize; 2],
    (group, pack): Pack,
    to: *mut u32,
) {
    let filled = matrix.cols.div_ceil(group);
    // SAFETY: the caller guarantees the room and the kernel; the kernel fills the beginning.
    unsafe {
        to.add(filled * lines)
            .write_bytes(0, (depth - filled) * lines);
        pack(matrix, first, to);
    }
}

/// Packs the lines from `first` on: packed value `g` of line `l` goes to `g * W + l`. Lines beyond the matrix are zero.
///
/// # Safety
///
/// Needs the instructions of `N`; `to` must have room for a panel. `W` must be a multiple of [`LANES`], or smaller.
#[inline(always)]
pub(super) unsafe fn panel<N: Numbers, const W: usize>(
    matrix: Matrix<'_>,
    first: usize,
    to: *mut u32,
) {
    let groups = matrix.cols.div_ceil(N::GROUP);
    for block in (0..W).step_by(LANES) {
        let lines = (matrix.rows - first).saturating_sub(block).min(LANES);
        // Store all lanes if the next group overwrites the surplus ones.
        let room = |group: usize| if group + 1 < groups { LANES } else { W - block };
        let start = matrix
            .values
            .as_ptr()
            .wrapping_add((first + block) * matrix.row_stride);
        let to = to.wrapping_add(block).cast::<f32>();
        // SAFETY: only numbers of existing lines and columns are read, and only lines of the block are written.
        unsafe {
            if matrix.col_stride == 1 {
                for group in (0..groups).step_by(LANES) {
                    let mut tile = [_mm512_setzero_ps(); LANES];
                    for (line, row) in tile.iter_mut().enumerate().take(lines) {
                        let at = group * N::GROUP;
                        let from = start.wrapping_add(line * matrix.row_stride + at);
                        *row = N::along(from, matrix.cols - at);
                    }
                    transpose(&mut tile);
                    let count = LANES.min(groups - group);
                    for (i, values) in tile.iter().enumerate().take(count) {
                        store(to.wrapping_add((group + i) * W), room(group + i), *values);
                    }
                }
            } else {
                for group in 0..groups {
                    let at = group * N::GROUP;
                    let from = start.wrapping_add(at * matrix.col_stride);
                    let values = N::across(from, matrix.col_stride, matrix.cols - at, lines);
                    store(to.wrapping_add(group * W), room(group), values);
                }
            }
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
        for [rows, cols] in [[1, 1], [6, 8], [14, 16], [15, 33], [33, 5], [70, 40]] {
            let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32).sqrt()).collect();
            let straight = Matrix::dense(&values, rows, cols).unwrap();
            let mut turned = vec![0.; rows * cols];
            for (at, value) in values.iter().enumerate() {
                turned[at % cols * rows + at / cols] = *value;
            }
            let turned = Matrix::dense(&turned, cols, rows).unwrap().transposed();
            let depth = cols.div_ceil(K::GROUP);
            let sides: [(usize, Pack); 2] = [
                (K::ROWS, (K::GROUP, K::pack_rows)),
                (COLS, (K::GROUP, K::pack_cols)),
            ];
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
        unsafe fn ones(matrix: Matrix<'_>, first: usize, to: *mut u32) {
            for i in 0..2 * matrix.cols {
                // SAFETY: two lines of a panel are at least this long.
                unsafe { to.add(i).write(1 + u32::try_from(first).unwrap()) };
            }
        }
        let matrix = Matrix::dense(&[0.; 9], 3, 3).unwrap();
        // SAFETY: `ones` needs no special instructions and fills 3 values of 2 lines.
        let packed = unsafe { panels(matrix, 2, 4, (1, ones), false) };
        assert_eq!(packed, [1, 1, 1, 1, 1, 1, 0, 0, 3, 3, 3, 3, 3, 3, 0, 0]);
    }
}
