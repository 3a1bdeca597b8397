//! Groups of processes that train together.
//!
//! Every process holds the whole model and gets its own share of each batch. A [`Communicator`] computes what depends
//! on the whole batch: gradient means, the statistics of batch normalisation, second moments, negatives and centres.

#[cfg(any(feature = "nccl", test))]
mod hosts;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod pending;
#[cfg(any(feature = "nccl", test))]
mod rendezvous;
mod single;
mod threads;

use candle_core::Tensor;

use crate::{Error, Result};

pub use launch::{Launch, Launcher, join};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub use pending::{Overlap, Pending};
pub use single::Single;
pub use threads::Threads;

/// How partial results of the processes are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// The sum over processes.
    Sum,
    /// The mean over processes.
    Mean,
}

/// Collective operations for methods. None of them carries gradients.
///
/// All tensors are f32, on any device. Every process must make the same calls in the same order with tensors of
/// the same shape, from the thread that joined the group. A call made by one process alone waits forever. So whether to
/// call may depend on settings and on the step, but never on the data of one process.
///
/// Calls of [`start`](Communicator::start) must be in the same order on all ranks, and so must all other collectives.
/// How the two interleave matters only under [`Overlap::Quiet`].
pub trait Communicator: Send + Sync {
    /// Rank of this process, from 0.
    fn rank(&self) -> usize;
    /// Number of processes.
    fn world(&self) -> usize;
    /// The elementwise sum or mean of `xs` over all processes; bit-identical on each.
    ///
    /// # Errors
    ///
    /// If a process cannot be reached.
    fn all_reduce(&self, xs: &Tensor, how: Reduce) -> Result<Tensor>;
    /// The tensors of all processes, concatenated along the first axis by rank.
    ///
    /// # Errors
    ///
    /// If a process cannot be reached.
    fn all_gather(&self, xs: &Tensor) -> Result<Tensor>;
    /// Starts the elementwise mean of `xs` over all processes; the result is bit-identical to
    /// [`all_reduce`](Communicator::all_reduce). It may overwrite `xs`, so nothing else may hold that memory.
    /// Default: computes the mean before returning.
    ///
    /// # Errors
    ///
    /// If a process cannot be reached, either here or in [`Pending::wait`].
    fn start(&self, xs: Tensor) -> Result<Pending> {
        self.all_reduce(&xs, Reduce::Mean).map(Pending::done)
    }
    /// What may overlap with [`start`](Communicator::start); the same on all processes. Default: nothing.
    fn overlap(&self) -> Overlap {
        Overlap::None
    }
    /// Leaves the group after all processes are done; no call may follow. Default: does nothing.
    fn leave(&self) {}
    /// Ends all processes after a failure, if supported. Default: does nothing.
    fn abort(&self) {}
}

/// The mean of each number over all processes.
///
/// # Errors
///
/// If a process cannot be reached.
#[expect(clippy::cast_possible_truncation, reason = "numbers for a log")]
pub fn mean(comm: &dyn Communicator, numbers: &[f64]) -> Result<Vec<f64>> {
    if comm.world() == 1 {
        return Ok(numbers.to_vec());
    }
    let numbers: Vec<f32> = numbers.iter().map(|number| *number as f32).collect();
    let numbers = Tensor::new(numbers, &candle_core::Device::Cpu)?;
    let means: Vec<f32> = comm.all_reduce(&numbers, Reduce::Mean)?.to_vec1()?;
    Ok(means.into_iter().map(f64::from).collect())
}

/// Whether `flag` is set on any process; a barrier.
///
/// # Errors
///
/// If a process cannot be reached.
pub fn any(comm: &dyn Communicator, flag: bool) -> Result<bool> {
    Ok(mean(comm, &[f64::from(u8::from(flag))])?[0] > 0.)
}

/// Runs `work` on all processes, on rank 0 before the others.
///
/// # Errors
///
/// The error of `work`, or if a process cannot be reached.
pub fn rank_0_first<T>(comm: &dyn Communicator, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if comm.rank() == 0 {
        let done = work()?;
        any(comm, false)?;
        return Ok(done);
    }
    any(comm, false)?;
    work()
}

/// Checks that a number is the same on all processes; a barrier. `what` names the number in the error.
///
/// # Errors
///
/// [`Error::Group`] on every process if they differ.
pub fn same(comm: &dyn Communicator, what: &str, number: u64) -> Result<()> {
    // Split into parts of 16 bits, which f32 represents exactly.
    let parts: Vec<f32> = (0..4)
        .map(|part| (number >> (16 * part) & 0xffff) as f32)
        .collect();
    let all: Vec<f32> = comm
        .all_gather(&Tensor::new(parts, &candle_core::Device::Cpu)?)?
        .to_vec1()?;
    let differs = all.chunks(4).position(|other| other != &all[..4]);
    match differs {
        None => Ok(()),
        Some(rank) => Err(Error::group(
            format!("{what} of rank {rank} differ from those of rank 0"),
            "start all processes with the same options, files and version of mim",
        )),
    }
}
