//! Initialisation of a codebook, its moving averages, and the restart of dead codes.

use candle_core::{DType, Tensor};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::{CodeMetric, Codebook, Counted, nearest, unit};
use crate::ops::upload;
use crate::rng::stream;
use crate::{Purpose, Result, StepContext};

/// Random streams for the initial codes and for restarted codes.
const STARTS: u64 = 1 << 32;
const RESTARTS: u64 = 2 << 32;

/// `a` where `mask` `[size]` is not zero, else `b`; both `[size]` or `[size, dim]`.
fn choose(mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mask = match b.rank() {
        1 => mask.clone(),
        _ => mask.unsqueeze(1)?.broadcast_as(b.shape())?,
    };
    Ok(mask.where_cond(a, b)?)
}

/// `old * share + new * (1 - share)`.
fn blend(old: &Tensor, new: &Tensor, share: f64) -> Result<Tensor> {
    Ok(((old * share)? + (new * (1. - share))?)?)
}

impl Codebook {
    /// Moves codes and counts towards a batch.
    pub(super) fn follow(&self, batch: &Counted) -> Result<()> {
        let decay = self.config.decay;
        let counts = blend(&self.counts.as_detached_tensor(), &batch.counts, decay)?;
        self.counts.set(&counts)?;
        match (self.config.metric, &self.sums) {
            (CodeMetric::Euclidean { eps }, Some(sums)) => {
                let moved = blend(&sums.as_detached_tensor(), &batch.sums, decay)?;
                sums.set(&moved)?;
                let total = counts.sum_all()?;
                let smooth = (&total + self.config.size as f64 * eps)?;
                let divisor = (&counts + eps)?
                    .broadcast_div(&smooth)?
                    .broadcast_mul(&total)?;
                let codes = moved.broadcast_div(&divisor.unsqueeze(1)?)?;
                Ok(self.codes.set(&codes)?)
            }
            _ => {
                let old = self.codes.as_detached_tensor();
                let means = means(batch)?;
                let chosen = batch.counts.gt(0f32)?;
                let new = choose(&chosen, &unit(&means)?, &old)?;
                Ok(self.codes.set(&unit(&blend(&old, &new, decay)?)?)?)
            }
        }
    }

    /// Replaces codes whose moving count is too small by random vectors of the joint batch.
    pub(super) fn restart(&self, vectors: &Tensor, step: &StepContext) -> Result<()> {
        let Some(least) = self.config.restart_below else {
            return Ok(());
        };
        let fresh = self.sample(&step.comm.all_gather(vectors)?, RESTARTS, step)?;
        let counts = self.counts.as_detached_tensor();
        let dead = counts.lt(least)?;
        for var in self.sums.iter().chain([&self.codes]) {
            var.set(&choose(&dead, &fresh, &var.as_detached_tensor())?)?;
        }
        Ok(self
            .counts
            .set(&choose(&dead, &counts.ones_like()?, &counts)?)?)
    }

    /// Initialises the codes by k-means on the first batch of a run, unless they are initialised.
    pub(super) fn start(&self, vectors: &Tensor, step: &StepContext) -> Result<()> {
        // Read the flag only in the first step: reading it waits for the GPU.
        let first = step.global_iter() == 0 && step.micro == 0;
        let Some(started) = self.started.as_ref().filter(|_| first) else {
            return Ok(());
        };
        if started.flatten_all()?.to_vec1::<f32>()? != [0.] {
            return Ok(());
        }
        let vectors = step.comm.all_gather(vectors)?;
        let mut codes = self.sample(&vectors, STARTS, step)?;
        let mut counted = None;
        for _ in 0..self.config.kmeans {
            let batch = self.counted(&vectors, &nearest(&vectors, &codes)?)?;
            let mut new = means(&batch)?;
            if self.config.metric == CodeMetric::Cosine {
                new = unit(&new)?;
            }
            codes = choose(&batch.counts.gt(0f32)?, &new, &codes)?;
            counted = Some(batch.counts);
        }
        self.codes.set(&codes)?;
        // With the cosine metric, counts are only statistics and start at zero.
        if let (Some(sums), Some(counts)) = (&self.sums, counted) {
            let counts = counts.maximum(1f32)?;
            sums.set(&codes.broadcast_mul(&counts.unsqueeze(1)?)?)?;
            self.counts.set(&counts)?;
        }
        Ok(started.set(&Tensor::ones(1, DType::F32, started.device())?)?)
    }

    /// Draws one of `vectors` for each code, without repetition if there are enough; the same on all processes.
    fn sample(&self, vectors: &Tensor, purpose: u64, step: &StepContext) -> Result<Tensor> {
        let (rows, size) = (vectors.dim(0)?, self.config.size);
        let place = [step.global_iter() as u64, purpose | step.micro as u64];
        let mut rng = stream(step.seed, Purpose::Method, place);
        let last = u32::try_from(rows).unwrap_or(u32::MAX);
        let ids: Vec<u32> = match rows >= size {
            true => {
                let mut ids: Vec<u32> = (0..last).collect();
                let (chosen, _) = ids.partial_shuffle(&mut rng, size);
                chosen.to_vec()
            }
            false => (0..size).map(|_| rng.random_range(0..last)).collect(),
        };
        Ok(vectors.index_select(&upload(ids, size, vectors.device())?, 0)?)
    }

    /// Counts and sums of vectors already gathered from all processes.
    fn counted(&self, vectors: &Tensor, codes: &Tensor) -> Result<Counted> {
        self.count(vectors, codes, &StepContext::inference())
    }
}

/// Means of the vectors of each code; zero for unused codes.
fn means(batch: &Counted) -> Result<Tensor> {
    let divisor = batch.counts.maximum(1f32)?.unsqueeze(1)?;
    Ok(batch.sums.broadcast_div(&divisor)?)
}
