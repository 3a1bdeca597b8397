//! Launches of kernels.

#![expect(unsafe_code, reason = "kernels write through plain pointers")]

use std::cell::Cell;

use candle_core::{Device, Result};

use super::kernel::{Arg, Grid, Kernel};
use super::no_kernels;

thread_local! {
    static LAUNCHES: Cell<usize> = const { Cell::new(0) };
}

/// How many kernels and matrix products of our own this thread has launched so far; candle's own launches are
/// not among them, which it counts nowhere.
pub fn launches() -> usize {
    LAUNCHES.get()
}

pub(super) fn count() {
    LAUNCHES.set(LAUNCHES.get() + 1);
}

/// Runs a kernel.
///
/// # Errors
///
/// If an operand is not contiguous or on another device, a number is too large, or the device fails.
///
/// # Safety
///
/// The arguments must be those of the kernel, in order and type, and the kernel must stay inside of the
/// operands for this grid and these numbers.
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
        // SAFETY: the caller's promise.
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
