//! The group of a single process.

use candle_core::Tensor;

use super::{Communicator, Reduce};
use crate::Result;

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
