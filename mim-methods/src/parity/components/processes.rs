//! A group with one real process; the others are recorded.

use candle_core::Tensor;
use mim_core::comm::{Communicator, Reduce};
use mim_core::{Error, Result};

/// Process `rank`. The other processes' tensors are given by rank, in the form in which this process sends its own.
pub(super) struct Recorded {
    pub(super) rank: usize,
    pub(super) others: Vec<Tensor>,
}

impl Recorded {
    /// All processes' tensors, by rank.
    fn all(&self, own: &Tensor) -> Result<Vec<Tensor>> {
        if self.rank > self.others.len() {
            let fix = "record one tensor for each other process";
            return Err(Error::shape("rank", self.others.len(), self.rank, fix));
        }
        let mut all = self.others.clone();
        all.insert(self.rank, own.clone());
        Ok(all)
    }
}

impl Communicator for Recorded {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.others.len() + 1
    }

    fn all_reduce(&self, xs: &Tensor, how: Reduce) -> Result<Tensor> {
        let all = self.all(xs)?;
        let sum = Tensor::stack(&all, 0)?.sum(0)?;
        Ok(match how {
            Reduce::Sum => sum,
            Reduce::Mean => (sum / all.len() as f64)?,
        })
    }

    fn all_gather(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(Tensor::cat(&self.all(xs)?, 0)?)
    }
}
