//! Any number of tensors as one operand of a candle op, which takes at most three.

#![cfg_attr(
    feature = "cuda",
    expect(unsafe_code, reason = "memory starts uninitialised")
)]

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::grad_accumulator::{accumulate_or_return, accumulate_values_or_return};

/// The gradient of each tensor: written by the op, read by the links.
type Gradients = Arc<Mutex<Vec<Option<Tensor>>>>;

/// Tensors that an op takes as a single operand, their handle.
///
/// The op reads the tensors from here. Its backward pass sets their gradients by
/// [`MultiOperand::set_grad`] and returns [`request_backward`] as the gradient of the handle. The links of the
/// handle then pass the gradients to candle.
pub(super) struct MultiOperand<const N: usize> {
    pub(super) tensors: [Tensor; N],
    gradients: Gradients,
}

impl<const N: usize> MultiOperand<N> {
    /// Creates the operands and their handle. The handle is on their device and tracks gradients if any of them does.
    /// `N` must be even.
    pub(super) fn new(tensors: [Tensor; N]) -> Result<(Self, Tensor)> {
        const { assert!(N.is_multiple_of(2), "a link takes two tensors") };
        let gradients = Gradients::new(Mutex::new(vec![None; N]));
        // If nothing tracks gradients, any tensor of the device will do.
        let mut handle = tensors[0].detach();
        for (first, pair) in tensors.as_chunks::<2>().0.iter().enumerate() {
            if !pair.iter().any(Tensor::track_op) {
                continue;
            }
            let link = Link {
                first: 2 * first,
                gradients: gradients.clone(),
            };
            handle = handle.apply_op3(&pair[0], &pair[1], link)?;
        }
        Ok((Self { tensors, gradients }, handle))
    }

    /// Sets the gradient of a tensor, or adds it to the gradient accumulator if a pass collects this tensor.
    pub(super) fn set_grad(&self, index: usize, gradient: Tensor) -> Result<()> {
        self.set(
            index,
            accumulate_or_return(self.tensors[index].id(), gradient)?,
        );
        Ok(())
    }

    /// [`MultiOperand::set_grad`] for values on the CPU.
    pub(super) fn set_grad_values(&self, index: usize, gradient: Vec<f32>) -> Result<()> {
        self.set(
            index,
            accumulate_values_or_return(&self.tensors[index], gradient)?,
        );
        Ok(())
    }

    /// Sets the gradient to pass to candle; `None` for a tensor that was accumulated already or needs no gradient.
    pub(super) fn set(&self, index: usize, gradient: Option<Tensor>) {
        locked(&self.gradients)[index] = gradient;
    }
}

/// Placeholder gradient of the handle: it makes candle run the backward pass of the links.
pub(super) fn request_backward(handle: &Tensor) -> Option<Tensor> {
    handle.track_op().then(|| handle.detach())
}

fn locked(gradients: &Gradients) -> std::sync::MutexGuard<'_, Vec<Option<Tensor>>> {
    // No code panics while it holds the lock.
    gradients.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node for two tensors of a [`MultiOperand`]; links form a chain that ends in the handle.
struct Link {
    first: usize,
    gradients: Gradients,
}

impl CustomOp3 for Link {
    fn name(&self) -> &'static str {
        "multi_operand"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.]), 1.into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        handle: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::BackendDevice;
        let shape = Shape::from(1);
        // SAFETY: nothing reads the value.
        let storage = unsafe {
            handle
                .device
                .alloc_uninit(&shape, candle_core::DType::F32)?
        };
        Ok((storage, shape))
    }

    fn bwd(
        &self,
        before: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut gradients = locked(&self.gradients);
        let Some([first, second]) = gradients
            .get_mut(self.first..)
            .and_then(<[_]>::first_chunk_mut)
        else {
            bail!("a MultiOperand has fewer tensors than links");
        };
        // Candle must also run the links before this one.
        Ok((
            before.track_op().then(|| grad.clone()),
            first.take(),
            second.take(),
        ))
    }
}
