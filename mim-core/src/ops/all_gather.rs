//! Differentiable all-gather of rows.

use std::sync::Arc;

use candle_core::Tensor;
use mim_ops::AllReduceSum;

use super::sync_batch_norm::Processes;
use crate::Result;
use crate::comm::Communicator;

/// Concatenates the rows `[rows, dim]` of all processes of `comm`, by rank; each process must have the same number.
///
/// The gradient is that of the sum of the losses of all processes.
///
/// # Errors
///
/// If a process cannot be reached.
pub fn all_gather(xs: &Tensor, comm: &Arc<dyn Communicator>) -> Result<Tensor> {
    let (rank, world) = (comm.rank(), comm.world());
    if world == 1 {
        return Ok(xs.clone());
    }
    let rows = xs.dim(0)?;
    let spread = xs.pad_with_zeros(0, rank * rows, (world - 1 - rank) * rows)?;
    let processes: Arc<dyn AllReduceSum> = Arc::new(Processes(comm.clone()));
    Ok(mim_ops::sum_over_all(&spread, &processes)?)
}
