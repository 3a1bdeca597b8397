//! Results that other processes still work at.

use candle_core::Tensor;

use crate::Result;

/// What may happen between [`Communicator::start`](super::Communicator::start) and the end of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Nothing: it comes back when all is done.
    None,
    /// No other collectives: they share one queue with `start`, so their order must match on all ranks.
    Quiet,
    /// Any other call: those have a queue of their own.
    Free,
}

/// A mean over processes that has been started. Dropped, it is still computed, for the others.
pub struct Pending(Box<dyn FnOnce() -> Result<Tensor> + Send>);

impl Pending {
    /// What `wait` gives, which is called at most once.
    pub fn new(wait: impl FnOnce() -> Result<Tensor> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// A mean that is there.
    pub fn done(mean: Tensor) -> Self {
        Self::new(|| Ok(mean))
    }

    /// The mean.
    ///
    /// # Errors
    ///
    /// If the processes cannot be reached.
    pub fn wait(self) -> Result<Tensor> {
        (self.0)()
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
