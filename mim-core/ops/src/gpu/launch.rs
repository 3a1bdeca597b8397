//! Kernel launches.

#![expect(unsafe_code, reason = "kernels write through plain pointers")]

use std::cell::Cell;

use candle_core::{Device, Result};

use super::kernel::{Arg, Grid, Kernel};
use super::no_kernels;

thread_local! {
    static LAUNCHES: Cell<usize> = const { Cell::new(0) };
}

/// Number of kernels and cuBLAS products that this crate has launched on this thread. candle's own launches are not
/// included; candle does not count them.
pub fn launches() -> usize {
    LAUNCHES.get()
}

pub(super) fn count() {
    LAUNCHES.set(LAUNCHES.get() + 1);
}

/// Launches a kernel.
///
/// # Errors
///
/// Fails if an operand is not contiguous or on another device, if a number is too large, or if the device fails.
///
/// # Safety
///
/// The arguments must match the kernel's in order and type. For this grid and these numbers, the kernel must
/// stay inside its operands.
pub(crate) unsafe fn launch(
    device: &Device,
    kernel: &Kernel,
    grid: Grid,
    args: &mut [Arg<'_>],
) -> Result<()> {
    let blocks = grid.blocks()?;
    if blocks.contains(&0) {
        return Ok(());
    }
    count();
    match device {
        // SAFETY: the caller's contract.
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => unsafe {
            super::cuda::launch(device, kernel, (blocks, grid), args)
        },
        _ => {
            let _ = args;
            Err(no_kernels(&kernel.name, device))
        }
    }
}
