//! Processes started by `mpirun`.

mod progress_thread;

use std::mem::ManuallyDrop;
use std::sync::{Mutex, PoisonError};

use ::mpi::collective::SystemOperation;
use ::mpi::environment::Universe;
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator as _, CommunicatorCollectives as _};
use ::mpi::{Threading, initialize_with_threading};
use candle_core::{CpuStorage, Device, Storage, Tensor, bail};

use self::progress_thread::ProgressThread;
use super::{Communicator, Overlap, Pending, Reduce};
use crate::{Error, Result};

/// The process group started by `mpirun`.
///
/// GPU tensors go through the host; use NCCL between GPUs. MPI ends all processes if a call fails.
/// [Started](Communicator::start) means are sent by a progress thread with its own MPI communicator, if
/// MPI supports `MPI_THREAD_MULTIPLE` on all processes.
pub struct Mpi {
    rank: usize,
    world: usize,
    beside: Option<ProgressThread>,
    // Not dropped with the group: after a failure, finalising would wait for the others forever.
    universe: Mutex<Option<ManuallyDrop<Universe>>>,
}

impl Mpi {
    /// Joins the group; all further calls must come from this thread.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if this process has joined already.
    pub fn join() -> Result<Self> {
        let Some((universe, provided)) = initialize_with_threading(Threading::Multiple) else {
            return Err(Error::group(
                "MPI is already initialised in this process",
                "join the group only once",
            ));
        };
        let world = universe.world();
        let number = |n: i32| usize::try_from(n).unwrap_or_default();
        let mut joined = Self {
            rank: number(world.rank()),
            world: number(world.size()),
            beside: None,
            universe: Mutex::new(Some(ManuallyDrop::new(universe))),
        };
        let lacks = provided != Threading::Multiple;
        if joined.world > 1 && !super::any(&joined, lacks)? {
            joined.beside = Some(ProgressThread::start()?);
        }
        Ok(joined)
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&self, xs: &Tensor, how: Reduce) -> Result<Tensor> {
        Ok(all_reduce(&SimpleCommunicator::world(), xs, how)?)
    }

    fn all_gather(&self, xs: &Tensor) -> Result<Tensor> {
        let mut all = vec![0f32; xs.elem_count() * self.world];
        with_values(xs, |values| {
            SimpleCommunicator::world().all_gather_into(values, &mut all[..]);
        })?;
        let mut shape = xs.dims().to_vec();
        shape[0] *= self.world;
        Ok(Tensor::from_vec(all, shape, xs.device())?)
    }

    fn start(&self, xs: Tensor) -> Result<Pending> {
        match &self.beside {
            Some(beside) => beside.mean(xs),
            None => self.all_reduce(&xs, Reduce::Mean).map(Pending::done),
        }
    }

    fn overlap(&self) -> Overlap {
        match self.beside {
            Some(_) => Overlap::Free,
            None => Overlap::None,
        }
    }

    fn leave(&self) {
        if let Some(beside) = &self.beside {
            beside.end();
        }
        let mut universe = self.universe.lock().unwrap_or_else(PoisonError::into_inner);
        drop(universe.take().map(ManuallyDrop::into_inner));
    }

    fn abort(&self) {
        SimpleCommunicator::world().abort(1);
    }
}

/// The sum or mean over the processes of `group`, on the device of `xs`.
fn all_reduce(group: &SimpleCommunicator, xs: &Tensor, how: Reduce) -> candle_core::Result<Tensor> {
    let mut sum = vec![0f32; xs.elem_count()];
    with_values(xs, |values| {
        group.all_reduce_into(values, &mut sum[..], SystemOperation::sum());
    })?;
    if how == Reduce::Mean {
        let share = 1. / group.size() as f32;
        sum.iter_mut().for_each(|x| *x *= share);
    }
    Tensor::from_vec(sum, xs.shape(), xs.device())
}

/// Calls `work` with the values of an f32 tensor, in order.
fn with_values<R>(xs: &Tensor, work: impl FnOnce(&[f32]) -> R) -> candle_core::Result<R> {
    let xs = xs.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            Ok(work(&values[start..end]))
        }
        _ => bail!("MPI collectives take f32 only"),
    }
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mpi")
            .field("rank", &self.rank)
            .field("world", &self.world)
            .finish_non_exhaustive()
    }
}
