//! The tile unit in plain Rust, for machines without one: it tests everything but the instructions.

use std::cell::Cell;

use super::super::kernel::Avx512Bf16;
use super::machine::small;
use super::*;
use crate::simd::has_avx512_bf16;

thread_local! {
    static BEGUN: Cell<bool> = const { Cell::new(false) };
}

/// See [`Unit`].
pub(in crate::matmul::blocked) struct Emulated;

impl Unit for Emulated {
    unsafe fn begin() {
        assert!(!BEGUN.replace(true), "begun twice");
    }

    unsafe fn end() {
        assert!(BEGUN.replace(false), "ended before it began");
    }

    unsafe fn multiply(left: &[u32], right: &[u32], to: *mut f32, stride: usize, add: bool) {
        assert!(BEGUN.get(), "not begun on this thread");
        assert_eq!(left.len(), right.len());
        assert_eq!(left.len() % (ROWS * LANES), 0, "not whole tiles");
        let mut tiles = [[[[0f32; 16]; 16]; 2]; 2];
        for (left, right) in left.chunks(ROWS * LANES).zip(right.chunks(COLS * LANES)) {
            let left = [0, 256].map(|from| load(&left[from..], 16));
            let right = [0, 16].map(|from| load(&right[from..], 32));
            for (tiles, left) in tiles.iter_mut().zip(&left) {
                for (tile, right) in tiles.iter_mut().zip(&right) {
                    add_products(tile, left, right);
                }
            }
        }
        for row in 0..ROWS {
            for col in 0..COLS {
                let sum = tiles[row / 16][col / 16][row % 16][col % 16];
                // SAFETY: the caller guarantees these values.
                unsafe {
                    let to = to.add(row * stride + col);
                    to.write(if add { *to + sum } else { sum });
                }
            }
        }
    }
}

/// `tileloadd`: 16 rows of 16 values, `stride` values apart.
fn load(from: &[u32], stride: usize) -> [[u32; 16]; 16] {
    std::array::from_fn(|row| std::array::from_fn(|col| from[row * stride + col]))
}

/// Flushes subnormal numbers to zero.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() {
        0f32.copysign(x)
    } else {
        x
    }
}

/// `tdpbf16ps`: the first and the second numbers of the pairs are summed separately, by fused multiply-add.
fn add_products(sums: &mut [[f32; 16]; 16], left: &[[u32; 16]; 16], right: &[[u32; 16]; 16]) {
    let parts = |pair: u32| [pair << 16, pair & 0xffff_0000].map(|x| flushed(f32::from_bits(x)));
    for (sums, left) in sums.iter_mut().zip(left) {
        let mut more = [[0f32; 2]; 16];
        for (left, right) in left.iter().zip(right) {
            for (more, right) in more.iter_mut().zip(right) {
                let (left, right) = (parts(*left), parts(*right));
                for part in [0, 1] {
                    more[part] = flushed(left[part].mul_add(right[part], more[part]));
                }
            }
        }
        for (sum, more) in sums.iter_mut().zip(more) {
            *sum = flushed(flushed(*sum) + flushed(more[0] + more[1]));
        }
    }
}

#[test]
fn tiles_add_products_of_pairs() {
    // The pair (1, 2) in row 3 of the left tile meets (4, 8) in column 5 of the right one.
    let (mut left, mut right, mut sums) = ([[0; 16]; 16], [[0; 16]; 16], [[0.5; 16]; 16]);
    left[3][7] = 0x4000_3f80;
    right[7][5] = 0x4100_4080;
    add_products(&mut sums, &left, &right);
    let mut wanted = [[0.5; 16]; 16];
    wanted[3][5] = 20.5;
    assert_eq!(sums, wanted);
}

#[test]
fn both_orientations_give_the_same_rows() {
    if !has_avx512_bf16() {
        return eprintln!("skipped: this machine has no AVX512-BF16");
    }
    for [rows, cols] in [[1, 1], [5, 3], [16, 32], [17, 33], [32, 70]] {
        let values: Vec<f32> = (0..=u8::MAX)
            .map(f32::from)
            .cycle()
            .take(rows * cols)
            .collect();
        let mut turned = vec![0.; rows * cols];
        for (at, value) in values.iter().enumerate() {
            turned[at % cols * rows + at / cols] = *value;
        }
        let straight = Matrix::dense(&values, rows, cols).unwrap();
        let turned = Matrix::dense(&turned, cols, rows).unwrap().transposed();
        let depth = cols.div_ceil(2).next_multiple_of(16);
        for matrix in [straight, turned] {
            let mut panel = vec![u32::MAX; depth * ROWS];
            let source = Source {
                matrix,
                first: 0,
                count: 1,
                depth,
            };
            // SAFETY: the machine has the instructions, and the panel has the required size.
            unsafe { Amx::<Emulated>::pack_rows(source, panel.as_mut_ptr()) };
            for (at, pair) in panel.iter().enumerate() {
                let (square, row, group) = (at / 512, at % 512 / 16, at % 16);
                let number = |col: usize| match row < rows && col < cols {
                    true => values[row * cols + col].to_bits() >> 16,
                    false => 0,
                };
                let col = 2 * (16 * square + group);
                assert_eq!(
                    *pair,
                    number(col + 1) << 16 | number(col),
                    "row {row}, column {col}"
                );
            }
        }
    }
}

#[test]
fn small_product_matches_avx512_bf16() {
    if !has_avx512_bf16() {
        return eprintln!("skipped: this machine has no AVX512-BF16");
    }
    // SAFETY: the line above found the instructions.
    unsafe { assert_eq!(small::<Amx<Emulated>>(), small::<Avx512Bf16>()) };
}
