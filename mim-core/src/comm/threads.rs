//! Threads in place of processes.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use candle_core::Tensor;

use super::{Communicator, Reduce};
use crate::{Error, Result};

/// How long a thread waits for the others.
const PATIENCE: Duration = Duration::from_secs(300);

/// One of a group of threads of this process, each with a model of its own: what processes do, for tests.
#[derive(Debug, Clone)]
pub struct Threads {
    rank: usize,
    world: usize,
    shared: Arc<(Mutex<Exchange>, Condvar)>,
}

#[derive(Debug, Default)]
struct Exchange {
    /// Calls that are done.
    calls: usize,
    /// What ranks brought to the current call.
    brought: Vec<Option<Tensor>>,
    /// What all ranks brought to the last call.
    all: Vec<Tensor>,
}

impl Threads {
    /// The members of a group, by rank.
    pub fn group(world: usize) -> Vec<Self> {
        let exchange = Exchange {
            brought: vec![None; world],
            ..Exchange::default()
        };
        let shared = Arc::new((Mutex::new(exchange), Condvar::new()));
        let member = |rank| Self {
            rank,
            world,
            shared: shared.clone(),
        };
        (0..world).map(member).collect()
    }

    /// The tensors of all ranks.
    fn exchange(&self, xs: &Tensor) -> Result<Vec<Tensor>> {
        let (exchange, done) = &*self.shared;
        let mut now = exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let call = now.calls;
        now.brought[self.rank] = Some(xs.detach());
        if now.brought.iter().all(Option::is_some) {
            now.all = now.brought.iter_mut().filter_map(Option::take).collect();
            now.calls += 1;
            done.notify_all();
        }
        let (now, waited) = done
            .wait_timeout_while(now, PATIENCE, |now| now.calls == call)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Error::group(
                "a thread has not come to a common call",
                "let all of them make the same calls",
            ));
        }
        Ok(now.all.clone())
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
        let all = self.exchange(xs)?;
        let sum = all[1..]
            .iter()
            .try_fold(all[0].clone(), |sum, xs| sum + xs)?;
        Ok(match how {
            Reduce::Sum => sum,
            Reduce::Mean => (sum / all.len() as f64)?,
        })
    }

    fn all_gather(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(Tensor::cat(&self.exchange(xs)?, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{any, mean, same};
    use super::*;
    use candle_core::Device;

    /// What `work` gives on each of three ranks.
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
    fn sums_means_and_joins() {
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
