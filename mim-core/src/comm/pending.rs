//! Results in flight.

use candle_core::Tensor;

use crate::Result;

/// What may run between [`Communicator::start`](super::Communicator::start) and the end of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Nothing: `start` returns after the mean is computed.
    None,
    /// No other collectives: they share one queue with `start`, so their order must match on all ranks.
    Quiet,
    /// Any other collective: those use a separate queue.
    Free,
}

/// A mean over processes in flight. If dropped, it is still computed, because other processes need it.
pub struct Pending(Box<dyn FnOnce() -> Result<Tensor> + Send>);

impl Pending {
    /// A result computed by `wait`, which is called at most once.
    pub fn new(wait: impl FnOnce() -> Result<Tensor> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// A mean that is already computed.
    pub fn done(mean: Tensor) -> Self {
        Self::new(|| Ok(mean))
    }

    /// Waits for the mean.
    ///
    /// # Errors
    ///
    /// If a process cannot be reached.
    pub fn wait(self) -> Result<Tensor> {
        (self.0)()
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
