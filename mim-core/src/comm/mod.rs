//! Groups of processes that train together.
//!
//! Every process holds the whole model and sees its own share of each batch. What must be known of the whole
//! batch goes through a [`Communicator`]: gradients, the statistics of batch normalisation, second moments,
//! negatives and centres.

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

/// What a method may ask of the other processes. None of it carries gradients.
///
/// All tensors are f32, on any device. Every process must make the same calls in the same order with tensors of
/// the same shape, from the thread that joined the group: a call on one process alone waits for ever. What
/// decides about a call may therefore depend on settings and on the step, never on a process' own data.
///
/// Calls of [`start`](Communicator::start) must be in the same order on all ranks, and so must all other collectives.
/// How the two interleave matters only under [`Overlap::Quiet`].
pub trait Communicator: Send + Sync {
    /// This process' number, from 0.
    fn rank(&self) -> usize;
    /// Number of processes.
    fn world(&self) -> usize;
    /// The elementwise sum or mean of `xs` over all processes, bit-identical on each of them.
    ///
    /// # Errors
    ///
    /// If the processes cannot be reached.
    fn all_reduce(&self, xs: &Tensor, how: Reduce) -> Result<Tensor>;
    /// The processes' tensors joined along the first axis, by rank.
    ///
    /// # Errors
    ///
    /// If the processes cannot be reached.
    fn all_gather(&self, xs: &Tensor) -> Result<Tensor>;
    /// Starts to compute the elementwise mean of `xs` over all processes, bit-identical to that of
    /// [`all_reduce`](Communicator::all_reduce); its memory may be that of `xs`, which nobody else may hold.
    /// Default: computes it here and now.
    ///
    /// # Errors
    ///
    /// If the processes cannot be reached, here or when it is waited for.
    fn start(&self, xs: Tensor) -> Result<Pending> {
        self.all_reduce(&xs, Reduce::Mean).map(Pending::done)
    }
    /// What [`start`](Communicator::start) leaves time for; the same on all processes. Default: nothing.
    fn overlap(&self) -> Overlap {
        Overlap::None
    }
    /// Leaves the group, when all are done; nothing may be asked of it afterwards. Default: nothing to do.
    fn leave(&self) {}
    /// Ends all processes after a failure, if it can. Default: it cannot.
    fn abort(&self) {}
}

/// The mean of each number over all processes.
///
/// # Errors
///
/// If the processes cannot be reached.
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

/// Whether `flag` is set on any process; all wait for each other.
///
/// # Errors
///
/// If the processes cannot be reached.
pub fn any(comm: &dyn Communicator, flag: bool) -> Result<bool> {
    Ok(mean(comm, &[f64::from(u8::from(flag))])?[0] > 0.)
}

/// Does the same on all processes, on rank 0 before the others.
///
/// # Errors
///
/// What `work` returns, or if the processes cannot be reached.
pub fn rank_0_first<T>(comm: &dyn Communicator, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if comm.rank() == 0 {
        let done = work()?;
        any(comm, false)?;
        return Ok(done);
    }
    any(comm, false)?;
    work()
}

/// Checks that a number is the same on all processes, which wait for each other; `what` it stands for.
///
/// # Errors
///
/// [`Error::Group`] on every process if it is not.
pub fn same(comm: &dyn Communicator, what: &str, number: u64) -> Result<()> {
    // Parts of 16 bits, which f32 holds exactly.
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
            "start all of them with the same options, files and version",
        )),
    }
}
