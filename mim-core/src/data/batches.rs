//! The batches of one pass over a data set.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::queue::Pool;
use super::stage::Chunk;
use super::{LoaderConfig, Order};
use crate::{Batch, Error, Result};

/// Samples a worker takes at a time: enough to make hand-over cheap, few enough to share one batch out.
pub(super) const CHUNK: usize = 16;
/// Samples over which the share of unreadable ones is judged at least.
const JUDGED: usize = 100;

pub(super) type Work = Box<dyn Fn(usize) -> Result<Chunk> + Send + Sync>;

/// Who makes the chunks of batches.
pub(super) enum Engine {
    Inline { work: Work, next: usize },
    Threads(Pool<Result<Chunk>>),
}

impl Engine {
    fn next(&mut self) -> Result<Chunk> {
        match self {
            Self::Inline { work, next } => {
                *next += 1;
                work(*next - 1)
            }
            Self::Threads(pool) => pool.next(),
        }
    }
}

/// Iterator over the batches of one pass. It ends after the first error. Dropping it stops the workers.
pub struct Batches {
    engine: Engine,
    order: Arc<Order>,
    iter: usize,
    max_bad_share: f64,
    /// Says in words what happens to unreadable samples.
    instead: &'static str,
    seen: usize,
    bad: usize,
    left_out: Vec<usize>,
    failed: bool,
}

impl Batches {
    /// The batches of `order` from `start` on, as `engine` makes their chunks.
    pub(super) fn new(
        engine: Engine,
        order: Arc<Order>,
        start: usize,
        config: &LoaderConfig,
    ) -> Self {
        Self {
            engine,
            order,
            iter: start,
            max_bad_share: config.max_bad_share,
            instead: match config.leave_out_unreadable {
                true => "it is left out",
                false => "the next readable sample takes its place",
            },
            seen: 0,
            bad: 0,
            left_out: Vec::new(),
            failed: false,
        }
    }

    /// Counts `seen` samples before the first batch, of which those of `left_out` were left out.
    pub(super) fn after(self, seen: usize, left_out: Vec<usize>) -> Self {
        Self {
            seen,
            bad: left_out.len(),
            left_out,
            ..self
        }
    }

    /// Number of samples so far that could not be read.
    pub fn unreadable(&self) -> usize {
        self.bad
    }

    /// Indices of the samples that were left out so far ([`LoaderConfig::leave_out_unreadable`]).
    pub fn left_out(&self) -> &[usize] {
        &self.left_out
    }

    fn assemble(&mut self) -> Result<Batch> {
        let samples = self.order.batch(self.iter).len();
        let mut batch = self.chunk(samples)?;
        batch.reserve(samples);
        for _ in 1..samples.div_ceil(CHUNK) {
            let chunk = self.chunk(samples)?;
            batch.extend(chunk)?;
        }
        self.seen += samples;
        batch.into_batch()
    }

    /// The next chunk of a batch of `samples`, its unreadable samples counted.
    fn chunk(&mut self, samples: usize) -> Result<Chunk> {
        let chunk = self.engine.next()?;
        for error in chunk.unreadable.iter().filter(|error| is_new(error)) {
            tracing::warn!("{error}; {}", self.instead);
        }
        self.left_out.extend(&chunk.left_out);
        self.bad += chunk.unreadable.len();
        let judged = (self.seen + samples).max(JUDGED);
        if self.bad as f64 > self.max_bad_share * judged as f64 {
            return Err(Error::unsupported(
                format!(
                    "a data set of which {} samples of {} could not be read",
                    self.bad,
                    self.seen + samples
                ),
                format!(
                    "that is more than max_bad_share {} allows; for example: {}",
                    self.max_bad_share,
                    chunk.unreadable.first().map_or("", String::as_str)
                ),
                "repair the data, or raise max_bad_share",
            ));
        }
        Ok(chunk)
    }
}

/// Whether nobody has been told of this error: epochs, probes and pictures of a run meet the same unreadable file.
fn is_new(error: &str) -> bool {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    told.insert(error.to_owned())
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.iter >= self.order.len() {
            return None;
        }
        let batch = self.assemble();
        self.iter += 1;
        self.failed = batch.is_err();
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.order.len().saturating_sub(self.iter);
        (usize::from(left > 0 && !self.failed), Some(left))
    }
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batches")
            .field("iter", &self.iter)
            .field("of", &self.order.len())
            .field("unreadable", &self.bad)
            .finish_non_exhaustive()
    }
}
