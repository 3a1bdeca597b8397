//! Batches from a data set, decoded and augmented by worker threads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batches::{Batches, CHUNK, Engine, Work};
use super::queue::Pool;
use super::stage::Stage;
use super::{Dataset, EpochSampler, Order, Shards};
use crate::augment::ViewPlan;
use crate::{Error, Result};

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
        self.sequential_from(0, vec![])
    }

    /// The rest of a sequential pass from batch `start` on, in which the samples `left_out` were left out before.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if a thread cannot be started.
    pub fn sequential_from(&self, start: usize, left_out: Vec<usize>) -> Result<Batches> {
        let order = Order::sequential(self.dataset().len(), self.config.batch_size)?;
        let batches = self.start(order, SEQUENTIAL, start)?;
        Ok(batches.after(start * self.config.batch_size, left_out))
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
        Ok(Batches::new(engine, order, start, &self.config))
    }
}
