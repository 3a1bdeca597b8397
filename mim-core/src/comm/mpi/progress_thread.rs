//! A progress thread: it sends while the main thread computes.

use std::mem::ManuallyDrop;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator as _, CommunicatorCollectives as _};
use candle_core::{Device, Tensor};

use super::{Pending, Reduce, all_reduce};
use crate::{Error, Result};

/// Poll interval of the barrier.
const POLL_INTERVAL: Duration = Duration::from_micros(100);

type Job = Box<dyn FnOnce(&SimpleCommunicator) + Send>;

/// The thread, until it ends, and the queue to it.
pub(super) struct ProgressThread(Mutex<Option<(Sender<Job>, JoinHandle<()>)>>);

impl ProgressThread {
    /// Starts the thread. This is collective: all processes must call it at the same point in their sequence of calls.
    pub(super) fn start() -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let work = move || {
            // A handle cannot move between threads. It is never freed, since freeing waits for the others.
            let group = ManuallyDrop::new(SimpleCommunicator::world().duplicate());
            // `start` waits for this.
            let _ = ready.send(());
            queue.into_iter().for_each(|job| job(&group));
        };
        let thread = std::thread::Builder::new().name("mim-mpi".into());
        let thread = thread.spawn(work).map_err(|error| {
            Error::group(
                format!("cannot start the MPI progress thread: {error}"),
                "check the thread limit of this machine",
            )
        })?;
        started.recv().map_err(|_| ended())?;
        Ok(Self(Mutex::new(Some((jobs, thread)))))
    }

    /// Starts the mean over the tensors of all processes.
    pub(super) fn mean(&self, xs: Tensor) -> Result<Pending> {
        let device = xs.device().clone();
        // Copy here: candle orders GPU work by the calling thread.
        let xs = xs.to_device(&Device::Cpu)?;
        let mean = self.run(move |group| {
            await_others(group);
            all_reduce(group, &xs, Reduce::Mean)
        })?;
        Ok(Pending::new(move || {
            let mean = mean.recv().map_err(|_| ended())??;
            Ok(mean.to_device(&device)?)
        }))
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&SimpleCommunicator) -> T + Send + 'static,
    ) -> Result<Receiver<T>> {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move |group| {
            // The receiver may be gone.
            let _ = done.send(job(group));
        });
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = thread.as_ref().map(|(jobs, _)| jobs.send(job));
        match sent {
            Some(Ok(())) => Ok(result),
            _ => Err(ended()),
        }
    }

    /// Waits for all started work and ends the thread.
    pub(super) fn end(&self) {
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((jobs, thread)) = thread {
            drop(jobs);
            // If the thread panicked, its jobs have reported errors.
            let _ = thread.join();
        }
    }
}

/// A barrier that sleeps: MPI's own barrier would keep a core busy that the backward pass needs.
fn await_others(group: &SimpleCommunicator) {
    let mut all = group.immediate_barrier();
    while let Err(not_yet) = all.test() {
        all = not_yet;
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn ended() -> Error {
    Error::group(
        "the MPI progress thread has ended",
        "look for an earlier message in the output of this process",
    )
}
