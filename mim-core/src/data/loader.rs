//! Batches from a data set, decoded and augmented by worker threads.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::queue::Pool;
use super::stage::{Chunk, Stage};
use super::{Dataset, EpochSampler, Order, Shards};
use crate::augment::ViewPlan;
use crate::{Batch, Error, Result};

/// Samples a worker takes at a time: enough to make hand-over cheap, few enough to share one batch out.
const CHUNK: usize = 16;
/// Samples over which the share of unreadable ones is judged at least.
const JUDGED: usize = 100;
/// The epoch number of sequential passes in random streams.
const SEQUENTIAL: u64 = u64::MAX;

/// Settings of [`Loader`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderConfig {
    /// Samples per batch, 64 by default.
    pub batch_size: usize,
    /// Threads that decode and augment, 4 by default. With 0 the calling thread does it.
    pub workers: usize,
    /// Batches made ahead of the one in use, 2 by default.
    pub prefetch: usize,
    /// Whether an epoch leaves out an incomplete last batch. True by default.
    pub drop_last: bool,
    /// Whether an unreadable sample is left out of its batch. By default the next readable sample takes its place.
    pub leave_out_unreadable: bool,
    /// Share of unreadable samples that an epoch tolerates, 0.05 by default. Data sets of fewer than 100 samples are
    /// judged as if they had 100.
    pub max_bad_share: f64,
    /// For data sets in shards: the number of samples from which the next one is drawn. By default what suits the data
    /// set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shuffle_window: Option<usize>,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 64,
            workers: 4,
            prefetch: 2,
            drop_last: true,
            leave_out_unreadable: false,
            max_bad_share: 0.05,
            shuffle_window: None,
        }
    }
}

/// Makes batches. Their bytes depend only on (seed, epoch, sample index), not on the number of workers.
#[derive(Debug)]
pub struct Loader {
    stage: Arc<Stage>,
    sampler: EpochSampler,
    config: LoaderConfig,
}

impl Loader {
    /// A loader of one process.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting of `config` or `plan` is out of range, or the data set is empty.
    pub fn new(
        dataset: Arc<dyn Dataset>,
        plan: ViewPlan,
        config: LoaderConfig,
        seed: u64,
    ) -> Result<Self> {
        plan.check()?;
        if !(0. ..=1.).contains(&config.max_bad_share) {
            return Err(Error::config(
                "loader",
                "max_bad_share",
                config.max_bad_share,
                "it is a share of the samples",
                "choose a number from 0 to 1",
            ));
        }
        let mut sampler =
            EpochSampler::new(dataset.len(), config.batch_size, seed)?.drop_last(config.drop_last);
        match (dataset.shards(), config.shuffle_window) {
            (Some(shards), window) => {
                let window = window.unwrap_or(shards.window);
                sampler = sampler.in_shards(Shards { window, ..shards });
            }
            (None, None) => {}
            (None, Some(window)) => {
                let why = "the images are no large files that are best read on end, so all are shuffled together";
                let fix =
                    "leave it out; it is for tar:, and for parquet: and hf: of more than 1 GiB";
                return Err(Error::config("data", "shuffle_window", window, why, fix));
            }
        }
        let stage = Stage {
            dataset,
            plan,
            seed,
            leave_out_unreadable: config.leave_out_unreadable,
        };
        Ok(Self {
            stage: Arc::new(stage),
            sampler,
            config,
        })
    }

    /// Gives the share of process `rank` of `world` in every epoch. Sequential passes still give all samples.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `rank` is not below `world`.
    pub fn sharded(mut self, rank: usize, world: usize) -> Result<Self> {
        self.sampler = self.sampler.sharded(rank, world)?;
        Ok(self)
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.stage.dataset
    }

    /// Batches an epoch.
    pub fn iterations(&self) -> usize {
        self.sampler.iterations()
    }

    /// The shuffled batches of `epoch`, from batch `start_iter` on.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the data set does not fill one batch; [`Error::Unsupported`] if a thread
    /// cannot be started.
    pub fn epoch(&self, epoch: usize, start_iter: usize) -> Result<Batches> {
        if self.iterations() == 0 {
            return Err(Error::config(
                "loader",
                "batch_size",
                self.config.batch_size,
                format!(
                    "the {} samples of the data set do not fill one batch of every process",
                    self.dataset().len()
                ),
                "choose a smaller batch_size",
            ));
        }
        let epoch = epoch as u64;
        self.start(self.sampler.epoch(epoch), epoch, start_iter)
    }

    /// Every sample once, in the order of the indices. The last batch may be smaller.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if a thread cannot be started.
    pub fn sequential(&self) -> Result<Batches> {
        let order = Order::sequential(self.dataset().len(), self.config.batch_size)?;
        self.start(order, SEQUENTIAL, 0)
    }

    fn start(&self, order: Order, epoch: u64, start: usize) -> Result<Batches> {
        let order = Arc::new(order);
        let tasks: Vec<(usize, usize)> = (start..order.len())
            .flat_map(|iter| {
                let chunks = order.batch(iter).chunks(CHUNK).len();
                (0..chunks).map(move |chunk| (iter, chunk))
            })
            .collect();
        let count = tasks.len();
        let (stage, samples) = (self.stage.clone(), order.clone());
        let work: Work = Box::new(move |task| {
            let (iter, chunk) = tasks[task];
            let indices = samples.batch(iter).chunks(CHUNK).nth(chunk);
            stage.chunk(epoch, indices.unwrap_or_default())
        });
        let ahead = self.config.prefetch.max(1) * self.config.batch_size.div_ceil(CHUNK);
        let engine = match self.config.workers {
            0 => Engine::Inline { work, next: 0 },
            workers => Engine::Threads(Pool::start(workers, count, ahead, work)?),
        };
        Ok(Batches {
            engine,
            order,
            iter: start,
            max_bad_share: self.config.max_bad_share,
            instead: match self.config.leave_out_unreadable {
                true => "it is left out",
                false => "the next readable sample takes its place",
            },
            seen: 0,
            bad: 0,
            left_out: Vec::new(),
            failed: false,
        })
    }
}

type Work = Box<dyn Fn(usize) -> Result<Chunk> + Send + Sync>;

enum Engine {
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
