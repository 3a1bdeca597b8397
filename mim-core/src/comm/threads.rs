//! Threads that act as processes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use candle_core::Tensor;

use super::{Communicator, Overlap, Pending, Reduce};
use crate::{Error, Result};

/// How long a thread waits for the others.
const PATIENCE: Duration = Duration::from_secs(300);

/// A group of threads in this process, each with its own model: it replaces processes in tests.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    world: usize,
    calls: Line,
    /// Calls of `start`, which are ordered separately.
    beside: Line,
}

/// Calls of one kind, in order.
#[derive(Debug)]
struct Line {
    meeting: Arc<Meeting>,
    /// Number of calls made by this thread.
    made: AtomicUsize,
}

#[derive(Debug, Default)]
struct Meeting {
    /// Calls by number, until all threads have left them.
    calls: Mutex<HashMap<usize, Call>>,
    brought: Condvar,
}

#[derive(Debug)]
struct Call {
    /// By rank.
    brought: Vec<Option<Tensor>>,
    left: usize,
}

impl Line {
    /// Contributes a tensor to the next call and returns the number of the call.
    fn bring(&self, (rank, world): (usize, usize), xs: &Tensor) -> usize {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let none = || Call {
            brought: vec![None; world],
            left: 0,
        };
        let mut calls = self.meeting.calls();
        calls.entry(number).or_insert_with(none).brought[rank] = Some(xs.detach());
        self.meeting.brought.notify_all();
        number
    }
}

impl Meeting {
    fn calls(&self) -> MutexGuard<'_, HashMap<usize, Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the tensors of all ranks.
    fn all(&self, number: usize) -> Result<Vec<Tensor>> {
        let waits = |calls: &mut HashMap<usize, Call>| {
            let call = calls.get(&number);
            call.is_some_and(|call| call.brought.iter().any(Option::is_none))
        };
        let (mut calls, waited) = self
            .brought
            .wait_timeout_while(self.calls(), PATIENCE, waits)
            .unwrap_or_else(PoisonError::into_inner);
        let call = calls.get_mut(&number).filter(|_| !waited.timed_out());
        let Some(call) = call else {
            return Err(Error::group(
                "a thread did not take part in a collective call",
                "make the same calls on all threads",
            ));
        };
        let all: Vec<Tensor> = call.brought.iter().flatten().cloned().collect();
        call.left += 1;
        if call.left == all.len() {
            calls.remove(&number);
        }
        Ok(all)
    }
}

fn reduced(all: &[Tensor], how: Reduce) -> Result<Tensor> {
    let sum = all[1..]
        .iter()
        .try_fold(all[0].clone(), |sum, xs| sum + xs)?;
    Ok(match how {
        Reduce::Sum => sum,
        Reduce::Mean => (sum / all.len() as f64)?,
    })
}

impl Threads {
    /// The members of a group, by rank.
    pub fn group(world: usize) -> Vec<Self> {
        let meetings: [Arc<Meeting>; 2] = std::array::from_fn(|_| Arc::default());
        let line = |meeting: &Arc<Meeting>| Line {
            meeting: meeting.clone(),
            made: AtomicUsize::new(0),
        };
        let member = |rank| Self {
            rank,
            world,
            calls: line(&meetings[0]),
            beside: line(&meetings[1]),
        };
        (0..world).map(member).collect()
    }

    /// The tensors of all ranks.
    fn exchange(&self, xs: &Tensor) -> Result<Vec<Tensor>> {
        let number = self.calls.bring((self.rank, self.world), xs);
        self.calls.meeting.all(number)
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&self, xs: &Tensor, how: Reduce) -> Result<Tensor> {
        reduced(&self.exchange(xs)?, how)
    }

    fn all_gather(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(Tensor::cat(&self.exchange(xs)?, 0)?)
    }

    fn start(&self, xs: Tensor) -> Result<Pending> {
        let number = self.beside.bring((self.rank, self.world), &xs);
        let meeting = self.beside.meeting.clone();
        Ok(Pending::new(move || {
            reduced(&meeting.all(number)?, Reduce::Mean)
        }))
    }

    fn overlap(&self) -> Overlap {
        Overlap::Free
    }
}

#[cfg(test)]
mod tests {
    use super::super::{any, mean, same};
    use super::*;
    use candle_core::Device;

    /// The result of `work` on each of three ranks.
    fn on_three<T: Send>(work: impl Fn(&Threads) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = Threads::group(3)
                .into_iter()
                .map(|comm| {
                    scope.spawn(|| {
                        let comm = comm;
                        work(&comm)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        })
    }

    #[test]
    fn sums_means_and_gathers() {
        let found = on_three(|comm| {
            let xs = Tensor::new(&[[comm.rank() as f32, 1.]], &Device::Cpu).unwrap();
            let sum = comm.all_reduce(&xs, Reduce::Sum).unwrap();
            let mean = comm.all_reduce(&xs, Reduce::Mean).unwrap();
            let joined = comm.all_gather(&xs).unwrap();
            [sum, mean, joined].map(|xs| xs.to_vec2::<f32>().unwrap())
        });
        for [sum, mean, joined] in found {
            assert_eq!((sum, mean), (vec![vec![3., 3.]], vec![vec![1., 1.]]));
            assert_eq!(joined, [[0., 1.], [1., 1.], [2., 1.]]);
        }
    }

    #[test]
    fn started_means_are_ordered_separately() {
        let found = on_three(|comm| {
            let xs = |x: f32| Tensor::new(&[x], &Device::Cpu).unwrap();
            let own = comm.rank() as f32;
            // Each rank makes its other call at another point between its started means.
            let sum = || {
                let sum = comm.all_reduce(&xs(own), Reduce::Sum).unwrap();
                vec![sum.to_vec1::<f32>().unwrap()[0]]
            };
            let (mut started, mut sums) = (Vec::new(), Vec::new());
            for call in 0..3 {
                if call == comm.rank() {
                    sums.extend(sum());
                }
                started.push(comm.start(xs(own + 10. * call as f32)).unwrap());
            }
            let means = started.into_iter().rev().map(|mean| mean.wait().unwrap());
            let means: Vec<_> = means.map(|mean| mean.to_vec1::<f32>().unwrap()).collect();
            (sums, means.concat())
        });
        for found in found {
            assert_eq!(found, (vec![3.], vec![21., 11., 1.]));
        }
    }

    #[test]
    fn agrees_on_numbers_and_flags() {
        let found = on_three(|comm| {
            let only_last = comm.rank() == 2;
            let alike = same(comm, "the settings", 1 << 40).is_ok();
            let error = same(comm, "the settings", u64::from(only_last) << 40).unwrap_err();
            let means = mean(comm, &[comm.rank() as f64, 4.]).unwrap();
            (
                means,
                [
                    any(comm, only_last).unwrap(),
                    any(comm, false).unwrap(),
                    alike,
                ],
                error.to_string(),
            )
        });
        for (means, flags, error) in found {
            assert_eq!((means, flags), (vec![1., 4.], [true, false, true]));
            assert!(error.contains("the settings of rank 2 differ"), "{error}");
        }
    }
}
