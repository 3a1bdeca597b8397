//! Any number of tensors as one operand of an operation; candle's operations take three at most.

#![cfg_attr(
    feature = "cuda",
    expect(unsafe_code, reason = "memory is not cleared")
)]

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::grad_accumulator::{accumulate_or_return, accumulate_values_or_return};

/// The gradients of the tensors of a bundle, from the operation that takes it to the links that give them on.
type Gradients = Arc<Mutex<Vec<Option<Tensor>>>>;

/// Tensors that stand behind one operand, [`MultiOperand::new`].
///
/// The operation reads the tensors from here and returns a gradient for the handle, whatever it is; those of
/// the tensors it leaves with [`MultiOperand::set_grad`], and candle's backward pass finds them there.
pub(super) struct MultiOperand<const N: usize> {
    pub(super) tensors: [Tensor; N],
    gradients: Gradients,
}

impl<const N: usize> MultiOperand<N> {
    /// The bundle and its handle, on their device, which tracks gradients if one of the tensors does. `N` must
    /// be even.
    pub(super) fn new(tensors: [Tensor; N]) -> Result<(Self, Tensor)> {
        const { assert!(N.is_multiple_of(2), "a link takes two tensors") };
        let gradients = Gradients::new(Mutex::new(vec![None; N]));
        // Where nothing tracks gradients, any tensor of the device will do.
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

    /// Leaves the gradient of a tensor, unless it is one that is handed over.
    pub(super) fn set_grad(&self, index: usize, gradient: Tensor) -> Result<()> {
        self.set(
            index,
            accumulate_or_return(self.tensors[index].id(), gradient)?,
        );
        Ok(())
    }

    /// The same for the values of a gradient on the CPU.
    pub(super) fn set_grad_values(&self, index: usize, gradient: Vec<f32>) -> Result<()> {
        self.set(
            index,
            accumulate_values_or_return(&self.tensors[index], gradient)?,
        );
        Ok(())
    }

    /// Leaves the gradient of a tensor; none for one that has had its gradient already, or needs none.
    pub(super) fn set(&self, index: usize, gradient: Option<Tensor>) {
        locked(&self.gradients)[index] = gradient;
    }
}

/// What an operation returns as the gradient of its handle: something of its shape, so that the links are asked.
pub(super) fn request_backward(handle: &Tensor) -> Option<Tensor> {
    handle.track_op().then(|| handle.detach())
}

fn locked(gradients: &Gradients) -> std::sync::MutexGuard<'_, Vec<Option<Tensor>>> {
    // Nothing that holds the lock can panic.
    gradients.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two tensors of a bundle, behind the links before them.
struct Link {
    first: usize,
    gradients: Gradients,
}

impl CustomOp3 for Link {
    fn name(&self) -> &'static str {
        "bundle"
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
        // SAFETY: nobody looks at the value.
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
            bail!("a bundle has fewer tensors than links");
        };
        // The links before this one must be asked as well.
        Ok((
            before.track_op().then(|| grad.clone()),
            first.take(),
            second.take(),
        ))
    }
}
