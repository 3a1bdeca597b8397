//! CUDA kernels.
//!
//! The host side of an op (`gpu.rs` in its folder) allocates [`Buffer`]s, calls [`launch()`] and [`product()`] on
//! them, and attaches the result to candle's graph with [`differentiable()`]. It needs the feature `cuda` and a CUDA
//! device. Tests can use the pretend device of `mim-core/tests/pretend_cuda`, a library that replaces the driver's:
//! it runs the same kernels, compiled for the CPU. So everything but nvcc and the device itself is tested without a
//! GPU.
//!
//! Everything runs on candle's own stream, in call order, so nothing waits. Events only tell when pinned host memory
//! may be reused (`pinned`). NCCL alone uses another stream, and orders the two itself.
//! Between ops, tensors are f32. With [`Precision::Bf16`](super::Precision), the operands of matrix products and the
//! values stored for the backward pass are bf16; sums are f32.
//!
//! Steps are not captured into CUDA graphs, although the stream would allow it. A replay repeats the addresses and
//! host values of the capture, but every step uploads new masks and parameter tables and allocates new
//! tensors. candle also refuses copies from and to the host during a capture.

#![cfg_attr(
    not(feature = "cuda"),
    allow(
        dead_code,
        reason = "type-checked without CUDA, reachable only with it"
    )
)]

mod buffer;
#[cfg(feature = "cuda")]
mod cuda;
mod differentiable;
mod factor;
mod kernel;
mod launch;
#[cfg(feature = "cuda")]
mod pinned;
mod product;
pub(super) mod rows;
pub(super) mod table;

use candle_core::{DType, Device, Result, Tensor, bail};

pub(super) use self::buffer::Buffer;
pub(super) use self::differentiable::differentiable;
pub(super) use self::factor::Factor;
pub(super) use self::kernel::{Arg, Grid, Kernel};
pub(super) use self::launch::launch;
pub use self::launch::launches;
#[cfg(feature = "cuda")]
pub(super) use self::pinned::{PinnedDownload, upload};
pub(super) use self::product::product;

/// Whether the kernels apply: f32 tensors on a CUDA device, none of them empty.
pub(super) fn is_supported(tensors: &[&Tensor]) -> bool {
    let is_supported =
        |t: &&Tensor| t.dtype() == DType::F32 && t.device().is_cuda() && t.elem_count() > 0;
    tensors.iter().all(is_supported)
}

/// Peak memory of tensors on a CUDA device in bytes, over the whole process. `None` for other devices, and where the
/// driver has no memory pools.
///
/// # Errors
///
/// Fails only if the device does.
pub fn peak_memory(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::peak_memory(device),
        _ => Ok(None),
    }
}

/// Error for a kernel launch on a device without kernels.
fn no_kernels(what: &str, device: &Device) -> candle_core::Error {
    let device = device.location();
    candle_core::Error::msg(format!("{what}: there are no kernels for {device:?}"))
}

/// Name of a dtype in kernel names.
///
/// # Errors
///
/// Fails if the kernels do not take this dtype.
pub(super) fn type_name(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::BF16 => Ok("bf16"),
        DType::F32 => Ok("f32"),
        other => bail!("there are no kernels for {other:?}: use f32 or bf16"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_without_kernels_are_refused() {
        assert_eq!(type_name(DType::F32).unwrap(), "f32");
        assert_eq!(type_name(DType::BF16).unwrap(), "bf16");
        for dtype in [DType::F64, DType::F16, DType::U32] {
            let message = type_name(dtype).unwrap_err().to_string();
            assert!(message.contains("use f32 or bf16"), "{message}");
        }
    }
}
