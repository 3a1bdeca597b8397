//! A differentiable sum over processes.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Shape, Storage, Tensor, bail};

use crate::grad_accumulator::mark_collective;
use crate::{Error, Result};

/// The processes that share one batch.
pub trait AllReduceSum: Send + Sync {
    /// Number of processes.
    fn world(&self) -> usize;

    /// The elementwise sum of `xs` over all processes, without a gradient. The result has the shape of `xs`. All
    /// processes must call it in the same order.
    ///
    /// # Errors
    ///
    /// Fails if a process cannot be reached.
    fn all_reduce_sum(
        &self,
        xs: &Tensor,
    ) -> Result<Tensor, Box<dyn std::error::Error + Send + Sync>>;
}

/// The elementwise sum of `xs` (any shape, the same in all processes) over all processes. The gradient is that of the sum
/// of their losses: the sum of their gradients.
///
/// # Errors
///
/// Fails if a process cannot be reached.
pub fn sum_over_all(xs: &Tensor, comm: &Arc<dyn AllReduceSum>) -> Result<Tensor> {
    let sum = comm.all_reduce_sum(&xs.detach());
    let sum = sum.map_err(Error::AllReduce)?.contiguous()?;
    let comm = comm.clone();
    Ok(xs.apply_op1(SumOverAll { sum, comm })?)
}

/// Returns a sum computed beforehand: processes exchange tensors, but an op sees storages.
struct SumOverAll {
    sum: Tensor,
    comm: Arc<dyn AllReduceSum>,
}

impl CustomOp1 for SumOverAll {
    fn name(&self) -> &'static str {
        "sum_over_all"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        match &*self.sum.storage_and_layout().0 {
            Storage::Cpu(sum) => Ok((sum.clone(), self.sum.shape().clone())),
            _ => bail!("the sum over processes is not on the device of its input"),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let (storage, _) = self.sum.storage_and_layout();
        match &*storage {
            Storage::Cuda(sum) => Ok((sum.try_clone(layout)?, self.sum.shape().clone())),
            _ => bail!("the sum over processes is not on the device of its input"),
        }
    }

    fn bwd(
        &self,
        _xs: &Tensor,
        _sum: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        mark_collective();
        let sum = self.comm.all_reduce_sum(grad).map_err(Error::AllReduce);
        sum.map(Some).map_err(candle_core::Error::wrap)
    }
}
