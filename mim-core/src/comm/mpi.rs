//! Processes started by `mpirun`.

use std::mem::ManuallyDrop;
use std::sync::{Mutex, PoisonError};

use ::mpi::collective::SystemOperation;
use ::mpi::environment::Universe;
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator as _, CommunicatorCollectives as _};
use ::mpi::{Threading, initialize_with_threading};
use candle_core::{Device, Tensor};

use super::{Communicator, Reduce};
use crate::{Error, Result};

/// The group of processes that `mpirun` started.
///
/// Tensors on a GPU go through the host: NCCL is the way between GPUs. MPI ends all processes if a call fails.
pub struct Mpi {
    rank: usize,
    world: usize,
    // Not dropped with the group: after a failure, finalising would wait for the others for ever.
    universe: Mutex<Option<ManuallyDrop<Universe>>>,
}

impl Mpi {
    /// Joins the group; all further calls must come from this thread.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if this process has joined before.
    pub fn join() -> Result<Self> {
        let Some((universe, _)) = initialize_with_threading(Threading::Funneled) else {
            return Err(Error::group(
                "MPI was started before in this process",
                "join the group once",
            ));
        };
        let world = universe.world();
        let number = |n: i32| usize::try_from(n).unwrap_or_default();
        Ok(Self {
            rank: number(world.rank()),
            world: number(world.size()),
            universe: Mutex::new(Some(ManuallyDrop::new(universe))),
        })
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
        let values = values(xs)?;
        let mut sum = vec![0f32; values.len()];
        SimpleCommunicator::world().all_reduce_into(
            &values[..],
            &mut sum[..],
            SystemOperation::sum(),
        );
        if how == Reduce::Mean {
            let share = 1. / self.world as f32;
            sum.iter_mut().for_each(|x| *x *= share);
        }
        Ok(Tensor::from_vec(sum, xs.shape(), xs.device())?)
    }

    fn all_gather(&self, xs: &Tensor) -> Result<Tensor> {
        let values = values(xs)?;
        let mut all = vec![0f32; values.len() * self.world];
        SimpleCommunicator::world().all_gather_into(&values[..], &mut all[..]);
        let mut shape = xs.dims().to_vec();
        shape[0] *= self.world;
        Ok(Tensor::from_vec(all, shape, xs.device())?)
    }

    fn leave(&self) {
        let mut universe = self.universe.lock().unwrap_or_else(PoisonError::into_inner);
        drop(universe.take().map(ManuallyDrop::into_inner));
    }

    fn abort(&self) {
        SimpleCommunicator::world().abort(1);
    }
}

/// The values of an f32 tensor, in order.
fn values(xs: &Tensor) -> Result<Vec<f32>> {
    Ok(xs.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mpi")
            .field("rank", &self.rank)
            .field("world", &self.world)
            .finish_non_exhaustive()
    }
}
