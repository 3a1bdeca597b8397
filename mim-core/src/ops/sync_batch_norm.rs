//! Batch normalisation over the processes of a [`Communicator`].

use std::sync::Arc;

use candle_core::Tensor;
use mim_ops::{AllReduceSum, BatchNormOutput};

use crate::Result;
use crate::comm::{Communicator, Reduce};

/// [`mim_ops::sync_batch_norm`] over the processes of `comm`.
///
/// `xs` is `[..., dim]`, `weight` and `bias` are `[dim]`. All processes must have the same number of rows.
///
/// # Errors
///
/// As [`mim_ops::batch_norm`], and if a process cannot be reached.
pub fn sync_batch_norm(
    xs: &Tensor,
    affine: (&Tensor, &Tensor),
    eps: f64,
    comm: &Arc<dyn Communicator>,
) -> Result<BatchNormOutput> {
    let processes: Arc<dyn AllReduceSum> = Arc::new(Processes(comm.clone()));
    Ok(mim_ops::sync_batch_norm(xs, affine, eps, &processes)?)
}

pub(super) struct Processes(pub(super) Arc<dyn Communicator>);

impl AllReduceSum for Processes {
    fn world(&self) -> usize {
        self.0.world()
    }

    fn all_reduce_sum(
        &self,
        xs: &Tensor,
    ) -> Result<Tensor, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.all_reduce(xs, Reduce::Sum)?)
    }
}
