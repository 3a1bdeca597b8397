//! Groups of processes that train together.

use candle_core::Tensor;

use crate::Result;

/// How partial results of the processes are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// The sum over processes.
    Sum,
    /// The mean over processes.
    Mean,
}

/// What a method may ask of the other processes. None of it carries gradients.
pub trait Communicator: Send + Sync {
    /// This process' number, from 0.
    fn rank(&self) -> usize;
    /// Number of processes.
    fn world(&self) -> usize;
    /// The elementwise sum or mean of `xs` over all processes.
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
}

/// A group of one process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Single;

impl Communicator for Single {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&self, xs: &Tensor, _how: Reduce) -> Result<Tensor> {
        Ok(xs.clone())
    }

    fn all_gather(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(xs.clone())
    }
}
