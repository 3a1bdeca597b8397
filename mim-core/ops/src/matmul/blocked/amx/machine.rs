//! Detection of the tile unit.
//!
//! Before its first use, a small product is compared with that of AVX512-BF16. If they differ, AMX is
//! disabled.

#![expect(unsafe_code, reason = "instructions that query the CPU")]

#[cfg(target_os = "linux")]
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

use super::super::kernel::{Avx512Bf16, Kernel};
use super::super::{GemmArgs, run};
use super::{Amx, Hardware};
use crate::matmul::Matrix;
use crate::matmul::args::{Accumulate, Destination};
use crate::simd::{Instructions, has_avx512_bf16};

/// Whether the CPU has the unit, the system lets this process use it, and it computes correct results.
pub(in crate::matmul::blocked) fn available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = || present() && permitted() && agrees();
    Instructions::Amx.allowed() && has_avx512_bf16() && *FOUND.get_or_init(found)
}

/// Whether the CPU has bfloat16 tiles and the system saves them on context switches.
fn present() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// State components: tile configuration and tile data.
    const STATE: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn kept() -> u64 {
        // SAFETY: the caller has detected the instruction.
        unsafe { _xgetbv(0) }
    }
    let wanted = AMX_BF16 | AMX_TILE;
    std::arch::is_x86_feature_detected!("xsave")
        && __cpuid_count(7, 0).edx & wanted == wanted
        // SAFETY: the lines above detected the feature.
        && unsafe { kept() } & STATE == STATE
}

/// Asks the system for permission to use tile data, which it allocates per thread.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: the call only changes this process's permissions; Linux overwrites rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Not tried on other systems.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Whether a product larger than one tile each way, in small whole numbers, equals that of [`Avx512Bf16`].
fn agrees() -> bool {
    // SAFETY: the callers detected both sets of instructions.
    let agree = unsafe { small::<Amx<Hardware>>() == small::<Avx512Bf16>() };
    if !agree {
        tracing::warn!("AMX is disabled: its results differ from those of AVX512-BF16");
    }
    agree
}

/// A product of 40 x 70 by 70 x 50.
///
/// # Safety
///
/// The CPU must support the instructions of the kernel.
pub(super) unsafe fn small<K: Kernel>() -> Vec<f32> {
    const SIZES: [usize; 3] = [40, 70, 50];
    let [rows, inner, cols] = SIZES;
    let numbers = |len: usize, cycle: u8| -> Vec<f32> {
        (0..cycle)
            .cycle()
            .take(len)
            .map(|x| f32::from(x) - 5.0)
            .collect()
    };
    let (a, b) = (numbers(rows * inner, 11), numbers(inner * cols, 13));
    let matrix = |values, rows, cols| Matrix {
        values,
        rows,
        cols,
        row_stride: cols,
        col_stride: 1,
    };
    let mut product = vec![0f32; rows * cols];
    let to = Destination {
        start: product.as_mut_ptr(),
        row_stride: cols,
        init: Accumulate::Zero,
    };
    let (lhs, rhs) = (matrix(&a[..], rows, inner), matrix(&b[..], inner, cols));
    // SAFETY: `product` has the size of the product; the caller guarantees the instructions.
    unsafe {
        run::<K>(GemmArgs {
            to,
            scale: 1.0,
            lhs,
            rhs,
            parallel: false,
        })
    };
    product
}
