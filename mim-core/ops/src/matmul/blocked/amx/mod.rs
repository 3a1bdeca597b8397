//! bfloat16 tiles on CPUs with a tile unit (AMX).
//!
//! The instructions are inline assembly, since stable Rust has no intrinsics for them.

#![expect(unsafe_code, reason = "instructions on raw pointers")]

#[cfg(test)]
mod emulated;
mod machine;

use std::arch::asm;
use std::arch::x86_64::{__m512, _mm512_setzero_ps};
use std::marker::PhantomData;

#[cfg(test)]
pub(super) use self::emulated::Emulated;
pub(super) use self::machine::available;
use super::kernel::{COLS, Kernel, Tile};
use super::numbers::{Numbers, Pairs};
use super::pack::panel;
use super::register::{LANES, store, transpose};
use crate::matmul::Matrix;

/// Rows of the output per panel pair: two tiles.
const ROWS: usize = 2 * LANES;

/// Sums of the product of two panels.
type Sums = [[__m512; 2]; ROWS];

/// A unit that multiplies tiles of 16 rows of 64 bytes.
///
/// # Safety
///
/// All functions need the unit. The thread must be between `begin` and `end` when it calls `multiply`.
pub(super) trait Unit {
    unsafe fn begin();

    unsafe fn end();

    /// `left` holds 32 lines of 16 packed values for each 16 packed values of the inner axis. `right` holds 32 lines
    /// for each packed value of the inner axis. Both have a multiple of 16.
    unsafe fn multiply(left: &[u32], right: &[u32], sums: &mut Sums);
}

/// The CPU's unit.
pub(super) struct Hardware;

/// Operand of `ldtilecfg`: all eight tiles have the maximum size.
#[repr(C, align(64))]
struct Setting {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SETTING: Setting = Setting {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Unit for Hardware {
    unsafe fn begin() {
        // SAFETY: the caller guarantees the unit. Compiled code does not use tiles.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) &raw const SETTING,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    unsafe fn end() {
        // SAFETY: as above.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, nomem),
            );
        }
    }

    unsafe fn multiply(left: &[u32], right: &[u32], sums: &mut Sums) {
        let steps = left.len().min(right.len()) / (ROWS * LANES);
        if steps == 0 {
            return;
        }
        // SAFETY: the caller guarantees the unit. Each step reads 2 KiB of either side, and the sums are 32 rows
        // of 128 bytes; tiles begin at their rows 0 and 16 and at their bytes 0 and 64.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{left} + {line}]",
                "tileloadd tmm5, [{left} + {line} + 1024]",
                "tileloadd tmm6, [{right} + {wide}]",
                "tileloadd tmm7, [{right} + {wide} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, 2048",
                "add {right}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {wide}], tmm0",
                "tilestored [{sums} + {wide} + 64], tmm1",
                "tilestored [{sums} + {wide} + 2048], tmm2",
                "tilestored [{sums} + {wide} + 2112], tmm3",
                left = inout(reg) left.as_ptr() => _,
                right = inout(reg) right.as_ptr() => _,
                steps = inout(reg) steps => _,
                sums = in(reg) sums.as_mut_ptr(),
                line = in(reg) 64usize,
                wide = in(reg) 128usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// Operands rounded to bfloat16, 32 x 32 sums at a time; also needs AVX512-BF16.
pub(super) struct Amx<U>(PhantomData<U>);

impl<U: Unit> Kernel for Amx<U> {
    const GROUP: usize = Pairs::GROUP;
    const STEP: usize = LANES;
    const ROWS: usize = ROWS;
    const ROW_PANELS: usize = 4;

    unsafe fn begin() {
        // SAFETY: the caller guarantees the unit.
        unsafe { U::begin() }
    }

    unsafe fn end() {
        // SAFETY: the caller guarantees the unit.
        unsafe { U::end() }
    }

    /// Blocks of 16 lines by 16 packed values; the values of a line are adjacent.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn pack_rows(matrix: Matrix<'_>, first: usize, to: *mut u32) {
        let groups = matrix.cols.div_ceil(Pairs::GROUP);
        let squares = (0..groups)
            .step_by(LANES)
            .flat_map(|group| [(group, 0), (group, LANES)]);
        for (index, (group, line)) in squares.enumerate() {
            let (line, col) = (first + line, group * Pairs::GROUP);
            let lines = matrix.rows.saturating_sub(line).min(LANES);
            let left = matrix.cols - col;
            let place = line * matrix.row_stride + col * matrix.col_stride;
            let start = matrix.values.as_ptr().wrapping_add(place);
            let mut square = [_mm512_setzero_ps(); LANES];
            // SAFETY: only existing lines and columns are read; the caller guarantees the room.
            unsafe {
                if matrix.col_stride == 1 {
                    for (i, row) in square.iter_mut().enumerate().take(lines) {
                        *row = Pairs::along(start.wrapping_add(i * matrix.row_stride), left);
                    }
                } else {
                    for (i, row) in square.iter_mut().enumerate().take(groups - group) {
                        let at = i * Pairs::GROUP;
                        let from = start.wrapping_add(at * matrix.col_stride);
                        *row = Pairs::across(from, matrix.col_stride, left - at, lines);
                    }
                    transpose(&mut square);
                }
                let to = to.wrapping_add(index * LANES * LANES).cast::<f32>();
                for (i, row) in square.iter().enumerate() {
                    store(to.wrapping_add(i * LANES), LANES, *row);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn pack_cols(matrix: Matrix<'_>, first: usize, to: *mut u32) {
        // SAFETY: the caller's contract.
        unsafe { panel::<Pairs, COLS>(matrix, first, to) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn compute(tile: &Tile<'_>, left: &[u32], right: &[u32]) {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        // SAFETY: the caller's contract.
        unsafe {
            U::multiply(left, right, &mut sums);
            tile.store(&sums);
        }
    }
}
