//! Numbered tasks, done by several threads and handed over in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::{Error, Result};

/// Threads at work on tasks `0..tasks`, at most `ahead` of them beyond the one handed over last.
///
/// Dropping it stops the threads after the task in hand and waits for them.
#[derive(Debug)]
pub(super) struct Pool<T> {
    queue: Arc<Queue<T>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    tasks: usize,
    ahead: usize,
}

#[derive(Debug)]
struct State<T> {
    claimed: usize,
    taken: usize,
    stopped: bool,
    done: BTreeMap<usize, T>,
}

impl<T: Send + 'static> Pool<T> {
    /// Starts `workers` threads; `work` must not panic.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the system refuses a thread.
    pub(super) fn start(
        workers: usize,
        tasks: usize,
        ahead: usize,
        work: impl Fn(usize) -> T + Send + Sync + 'static,
    ) -> Result<Self> {
        let state = State {
            claimed: 0,
            taken: 0,
            stopped: false,
            done: BTreeMap::new(),
        };
        let queue = Arc::new(Queue {
            state: Mutex::new(state),
            changed: Condvar::new(),
            tasks,
            ahead: ahead.max(workers),
        });
        let work = Arc::new(work);
        let mut pool = Self {
            queue,
            threads: vec![],
        };
        for index in 0..workers {
            let (queue, work) = (pool.queue.clone(), work.clone());
            let run = move || {
                while let Some(task) = queue.claim() {
                    queue.deliver(task, work(task));
                }
            };
            let thread = std::thread::Builder::new().name(format!("mim-data-{index}"));
            pool.threads.push(thread.spawn(run).map_err(|error| {
                Error::unsupported(
                    format!("starting data worker {index}"),
                    error.to_string(),
                    "choose fewer workers",
                )
            })?);
        }
        Ok(pool)
    }

    /// The result of the next task in order, once it is there. Call it at most `tasks` times.
    pub(super) fn next(&self) -> T {
        let mut state = self.queue.lock();
        loop {
            let next = state.taken;
            if let Some(result) = state.done.remove(&next) {
                state.taken += 1;
                self.queue.changed.notify_all();
                return result;
            }
            state = self.queue.wait(state);
        }
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task to do, once there is room for its result; none when all are claimed or the pool is dropped.
    fn claim(&self) -> Option<usize> {
        let mut state = self.lock();
        while !state.stopped
            && state.claimed < self.tasks
            && state.claimed >= state.taken + self.ahead
        {
            state = self.wait(state);
        }
        let task = state.claimed;
        state.claimed += 1;
        (!state.stopped && task < self.tasks).then_some(task)
    }

    fn deliver(&self, task: usize, result: T) {
        self.lock().done.insert(task, result);
        self.changed.notify_all();
    }
}

impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        self.queue.lock().stopped = true;
        self.queue.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_order_and_work_never_runs_far_ahead() {
        let started = Arc::new(AtomicUsize::new(0));
        let counter = started.clone();
        let pool = Pool::start(3, 50, 4, move |task| {
            counter.fetch_add(1, Ordering::SeqCst);
            task * 2
        })
        .unwrap();
        for task in 0..50 {
            assert_eq!(pool.next(), task * 2);
            assert!(started.load(Ordering::SeqCst) <= task + 1 + 4);
        }
    }

    #[test]
    fn dropping_stops_the_threads() {
        let started = Arc::new(AtomicUsize::new(0));
        let counter = started.clone();
        let pool =
            Pool::start(2, 1000, 4, move |_| counter.fetch_add(1, Ordering::SeqCst)).unwrap();
        pool.next();
        drop(pool);
        assert_eq!(Arc::strong_count(&started), 1);
        assert!(started.load(Ordering::SeqCst) <= 5);
    }
}
