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
use std::mem::MaybeUninit;
use std::ops::Range;

#[cfg(test)]
pub(super) use self::emulated::Emulated;
pub(super) use self::machine::available;
use super::kernel::{COLS, Kernel, Tile};
use super::numbers::{Numbers, Pairs};
use super::pack::{Source, fill};
use super::register::{LANES, store, transpose};
use crate::matmul::Matrix;
use crate::matmul::args::Accumulate;

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

    /// Writes 32 x 32 sums to rows that are `stride` values apart; `add` adds them to what is there.
    ///
    /// `left` holds 32 lines of 16 packed values for each 16 packed values of the inner axis. `right` holds 32 lines
    /// for each packed value of the inner axis. Both have a multiple of 16.
    unsafe fn multiply(left: &[u32], right: &[u32], to: *mut f32, stride: usize, add: bool);
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

    unsafe fn multiply(left: &[u32], right: &[u32], to: *mut f32, stride: usize, add: bool) {
        let steps = left.len().min(right.len()) / (ROWS * LANES);
        let stride = stride * size_of::<f32>();
        // SAFETY: the caller guarantees the unit and the sums. Each step reads 2 KiB of either side. The tiles of the
        // sums begin at their rows 0 and 16 and at their bytes 0 and 64.
        unsafe {
            asm!(
                "test {add}, {add}",
                "jz 3f",
                "tileloadd tmm0, [{to} + {stride}]",
                "tileloadd tmm1, [{to} + {stride} + 64]",
                "tileloadd tmm2, [{low} + {stride}]",
                "tileloadd tmm3, [{low} + {stride} + 64]",
                "jmp 4f",
                "3:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "4:",
                "test {steps}, {steps}",
                "jz 5f",
                "2:",
                "tileloadd tmm4, [{left} + {line}]",
                "tileloadd tmm6, [{right} + {wide}]",
                "tileloadd tmm5, [{left} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {wide} + 64]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, 2048",
                "add {right}, 2048",
                "dec {steps}",
                "jnz 2b",
                "5:",
                "tilestored [{to} + {stride}], tmm0",
                "tilestored [{to} + {stride} + 64], tmm1",
                "tilestored [{low} + {stride}], tmm2",
                "tilestored [{low} + {stride} + 64], tmm3",
                left = inout(reg) left.as_ptr() => _,
                right = inout(reg) right.as_ptr() => _,
                steps = inout(reg) steps => _,
                add = in(reg) usize::from(add),
                to = in(reg) to,
                low = in(reg) to.cast::<u8>().wrapping_add(LANES * stride),
                stride = in(reg) stride,
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
    const DEPTH: usize = 1024;

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
    unsafe fn pack_rows(source: Source<'_>, to: *mut u32) {
        let Source {
            matrix,
            first,
            count,
            depth,
        } = source;
        let groups = matrix.cols.div_ceil(Pairs::GROUP);
        for group in (0..depth).step_by(LANES) {
            for panel in 0..count {
                for line in [0, LANES] {
                    let place = panel * depth * ROWS + group * ROWS + line * LANES;
                    let line = (first + panel) * ROWS + line;
                    // SAFETY: only existing lines and columns are read; the caller guarantees the room.
                    unsafe { square(matrix, line, group..groups, to.wrapping_add(place)) };
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn pack_cols(source: Source<'_>, to: *mut u32) {
        // SAFETY: the caller's contract.
        unsafe { fill::<Pairs, COLS>(source, to) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn compute(tile: &Tile<'_>, left: &[u32], right: &[u32]) {
        let whole = tile.rows == ROWS && tile.cols == COLS && tile.scale == 1.0;
        let add = match tile.init {
            Accumulate::Zero => Some(false),
            Accumulate::Sum => Some(true),
            Accumulate::Row(_) | Accumulate::Rows { .. } => None,
        };
        // SAFETY: the caller's contract. The unit writes all sums.
        unsafe {
            if let (true, Some(add)) = (whole, add) {
                return U::multiply(left, right, tile.start, tile.row_stride, add);
            }
            let mut sums = MaybeUninit::<Sums>::uninit();
            U::multiply(left, right, sums.as_mut_ptr().cast(), COLS, false);
            tile.store(sums.assume_init_ref());
        }
    }
}

/// Packs 16 lines from `line` on, 16 packed values each from `groups.start` on, of which those before `groups.end` exist.
///
/// # Safety
///
/// Needs the instructions of [`Pairs`]; `to` must have room for 256 values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn square(matrix: Matrix<'_>, line: usize, groups: Range<usize>, to: *mut u32) {
    let lines = matrix.rows.saturating_sub(line).min(LANES);
    let col = groups.start * Pairs::GROUP;
    let left = matrix.cols.saturating_sub(col);
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
            for (i, row) in square.iter_mut().enumerate().take(groups.len()) {
                let at = i * Pairs::GROUP;
                let from = start.wrapping_add(at * matrix.col_stride);
                *row = Pairs::across(from, matrix.col_stride, left - at, lines);
            }
            transpose(&mut square);
        }
        for (i, row) in square.iter().enumerate() {
            store(to.cast::<f32>().wrapping_add(i * LANES), LANES, *row);
        }
    }
}
