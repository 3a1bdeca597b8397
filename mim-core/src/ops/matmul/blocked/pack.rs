//! Operands in the order in which the innermost loop reads them.

#![expect(unsafe_code, reason = "register instructions on raw pointers")]

use std::arch::x86_64::{
    __m512i, __mmask16, _mm512_mask_storeu_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::kernel::{Kernel, LANES, mask};
use crate::ops::matmul::Matrix;

/// The rows of `matrix` in panels of `W` lines: packed value `g` of line `l` of panel `p` is at
/// `(p * depth + g) * W + l`. Missing lines are zero.
///
/// # Safety
///
/// Needs AVX-512 and what `K` asks for.
pub(super) unsafe fn panels<K: Kernel, const W: usize>(
    matrix: Matrix<'_>,
    parallel: bool,
) -> Vec<u32> {
    let size = matrix.cols.div_ceil(K::GROUP) * W;
    let len = matrix.rows.div_ceil(W) * size;
    let mut packed = Vec::<u32>::with_capacity(len);
    let room = &mut packed.spare_capacity_mut()[..len];
    // SAFETY: the caller vouches for the instructions; a panel writes all of its room.
    let pack = |(index, room): (usize, &mut [MaybeUninit<u32>])| unsafe {
        K::pack::<W>(matrix, index * W, room.as_mut_ptr().cast());
    };
    if parallel {
        room.par_chunks_mut(size)
            .enumerate()
            .with_max_len(1)
            .for_each(pack);
    } else {
        room.chunks_mut(size).enumerate().for_each(pack);
    }
    // SAFETY: the panels cover the whole length.
    unsafe { packed.set_len(len) };
    packed
}

/// Packs the lines from `first` on.
///
/// # Safety
///
/// As [`panels`]; `to` must have room for a panel.
#[inline(always)]
pub(super) unsafe fn panel<K: Kernel, const W: usize>(
    matrix: Matrix<'_>,
    first: usize,
    to: *mut u32,
) {
    let groups = matrix.cols.div_ceil(K::GROUP);
    for block in (0..W).step_by(LANES) {
        let lines = (matrix.rows - first).saturating_sub(block).min(LANES);
        // All lanes, where the next group is written over those that are too many.
        let room = |group: usize| mask(if group + 1 < groups { LANES } else { W - block });
        let start = matrix
            .values
            .as_ptr()
            .wrapping_add((first + block) * matrix.row_stride);
        let to = to.wrapping_add(block);
        // SAFETY: only numbers of existing lines and columns are read, and only the block's lines written.
        unsafe {
            if matrix.col_stride == 1 {
                for group in (0..groups).step_by(LANES) {
                    let mut tile = [_mm512_setzero_si512(); LANES];
                    for (line, row) in tile.iter_mut().enumerate().take(lines) {
                        let at = group * K::GROUP;
                        let from = start.wrapping_add(line * matrix.row_stride + at);
                        *row = K::along(from, matrix.cols - at);
                    }
                    transpose(&mut tile);
                    for (i, values) in tile.iter().enumerate().take(groups - group) {
                        store(to.wrapping_add((group + i) * W), room(group + i), *values);
                    }
                }
            } else {
                for group in 0..groups {
                    let at = group * K::GROUP;
                    let from = start.wrapping_add(at * matrix.col_stride);
                    let values = K::across(from, matrix.col_stride, matrix.cols - at, mask(lines));
                    store(to.wrapping_add(group * W), room(group), values);
                }
            }
        }
    }
}

/// Stores the lanes of `room`.
///
/// # Safety
///
/// As [`panels`]; `to` must have room for these lanes.
#[inline(always)]
unsafe fn store(to: *mut u32, room: __mmask16, values: __m512i) {
    // SAFETY: the caller vouches for the lanes. A store of all of them is faster without a mask.
    unsafe {
        if room == !0 {
            _mm512_storeu_si512(to.cast(), values);
        } else {
            _mm512_mask_storeu_epi32(to.cast(), room, values);
        }
    }
}

/// Swaps rows and columns: by pairs of 1, 2, 4 and 8 lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: &mut [__m512i; LANES]) {
    let mut pairs = [_mm512_setzero_si512(); LANES];
    for i in (0..LANES).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // Register 4 q + c now gets column c of the four rows from 4 q on, once in each quarter of 4 columns.
    let mut quads = [_mm512_setzero_si512(); LANES];
    for i in (0..LANES).step_by(4) {
        quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    for c in 0..4 {
        let [a, b, e, f] = [quads[c], quads[c + 4], quads[c + 8], quads[c + 12]];
        // Quarters 0 and 2, or 1 and 3, of two registers.
        let even = [
            _mm512_shuffle_i32x4::<0x88>(a, b),
            _mm512_shuffle_i32x4::<0x88>(e, f),
        ];
        let odd = [
            _mm512_shuffle_i32x4::<0xdd>(a, b),
            _mm512_shuffle_i32x4::<0xdd>(e, f),
        ];
        rows[c] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        rows[c + 8] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        rows[c + 4] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        rows[c + 12] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::available;
    use super::super::kernel::{Bf16, F32};
    use super::*;
    use crate::ops::Precision;

    fn numbers(len: u16) -> Vec<f32> {
        (0..len).map(f32::from).collect()
    }

    #[test]
    fn both_orientations_give_the_same_panels() {
        if !available(Precision::Bf16) {
            return eprintln!("skipped: this machine has no AVX512-BF16");
        }
        for [rows, cols] in [[1, 1], [14, 16], [15, 33], [33, 5], [70, 40]] {
            let values = numbers((rows * cols).try_into().unwrap());
            let straight = Matrix::dense(&values, rows, cols).unwrap();
            let mut turned = vec![0.; rows * cols];
            for (at, value) in values.iter().enumerate() {
                turned[at % cols * rows + at / cols] = *value;
            }
            let turned = Matrix::dense(&turned, cols, rows).unwrap().transposed();
            // SAFETY: the machine has the instructions.
            unsafe {
                let packed = panels::<F32, 14>(straight, false);
                assert_eq!(packed, panels::<F32, 14>(turned, true));
                for row in 0..rows {
                    for col in 0..cols {
                        let at = (row / 14 * cols + col) * 14 + row % 14;
                        assert_eq!(f32::from_bits(packed[at]), values[row * cols + col]);
                    }
                }
                let pairs = panels::<Bf16, 32>(straight, true);
                assert_eq!(pairs, panels::<Bf16, 32>(turned, false));
                // The second row: its first two numbers.
                if rows > 1 && cols > 1 {
                    let high = values[cols + 1].to_bits() & 0xffff_0000;
                    assert_eq!(pairs[1], values[cols].to_bits() >> 16 | high);
                }
            }
        }
    }
}
