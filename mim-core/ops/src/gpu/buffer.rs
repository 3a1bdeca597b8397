//! Memory that a kernel will fill.

#![cfg_attr(
    feature = "cuda",
    expect(unsafe_code, reason = "memory starts uninitialised")
)]

use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Result, Shape, Storage, Tensor};

use super::no_kernels;

/// Uninitialised storage of a contiguous tensor.
///
/// The values are arbitrary on a GPU. On the pretend device they are NaN, so that tests see what was not written.
pub(crate) struct Buffer {
    pub(super) storage: Storage,
    shape: Shape,
}

impl Buffer {
    /// Storage for floats of this dtype.
    ///
    /// # Errors
    ///
    /// Fails if the device has no kernels or not enough memory.
    pub(crate) fn new(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Self> {
        let shape = shape.into();
        let storage = unwritten(&shape, dtype, device)?;
        Ok(Self { storage, shape })
    }

    /// A copy of a contiguous tensor.
    pub(crate) fn copy(tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.force_contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        Ok(Self {
            storage: storage.try_clone(layout)?,
            shape: layout.shape().clone(),
        })
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The same memory with another shape of the same size.
    pub(crate) fn reshaped(self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        debug_assert_eq!(shape.elem_count(), self.shape.elem_count());
        Self { shape, ..self }
    }

    pub(crate) fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    /// The values, without a gradient.
    pub(crate) fn into_tensor(self) -> Tensor {
        Tensor::from_storage(self.storage, self.shape, BackpropOp::none(), false)
    }

    pub(super) fn into_parts(self) -> (Storage, Shape) {
        (self.storage, self.shape)
    }
}

fn unwritten(shape: &Shape, dtype: DType, device: &Device) -> Result<Storage> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            use candle_core::backend::BackendDevice;
            // SAFETY: the creator of a buffer launches a kernel that writes all of it before anything reads it.
            unsafe { device.alloc_uninit(shape, dtype) }.map(Storage::Cuda)
        }
        _ => Err(no_kernels(
            &format!("{} {dtype:?}", shape.elem_count()),
            device,
        )),
    }
}
