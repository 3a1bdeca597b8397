//! The order of samples in an epoch, a pure function of (seed, epoch).

use std::ops::Range;

use rand::RngExt;

use super::Shards;
use crate::rng::{Purpose, stream};
use crate::{Error, Result};

/// Draws a new permutation of the data set each epoch, cuts it into batches, and divides each batch among the ranks.
///
/// A global batch of `batch_size * world` samples is the same set for every number of ranks. Data sets in shards are an
/// exception ([`EpochSampler::in_shards`]): there each rank reads its own shards.
#[derive(Debug, Clone)]
pub struct EpochSampler {
    len: usize,
    batch_size: usize,
    seed: u64,
    rank: usize,
    world: usize,
    drop_last: bool,
    shards: Option<Shards>,
}

/// The batches of one rank in one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    indices: Vec<u32>,
    batches: Vec<Range<usize>>,
}

impl Order {
    /// Every sample once, by index; the last batch may be smaller.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `batch_size` is 0 or the set has more than 2^32 - 1 samples.
    pub fn sequential(len: usize, batch_size: usize) -> Result<Self> {
        let count = check(len, batch_size)?;
        let starts = (0..len).step_by(batch_size);
        Ok(Self {
            indices: (0..count).collect(),
            batches: starts
                .map(|start| start..len.min(start + batch_size))
                .collect(),
        })
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether there is no batch.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Sample indices of batch `iter`; empty after the last batch.
    pub fn batch(&self, iter: usize) -> &[u32] {
        let range = self.batches.get(iter).cloned().unwrap_or(0..0);
        &self.indices[range]
    }
}

impl EpochSampler {
    /// A sampler for one process, with batches of `batch_size` from `len` samples. An incomplete last batch is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `batch_size` is 0 or the set is empty or has more than 2^32 - 1 samples.
    pub fn new(len: usize, batch_size: usize, seed: u64) -> Result<Self> {
        check(len, batch_size)?;
        Ok(Self {
            len,
            batch_size,
            seed,
            rank: 0,
            world: 1,
            drop_last: true,
            shards: None,
        })
    }

    /// The share of process `rank` of `world`, with `batch_size` samples for each process.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `rank` is not below `world`.
    pub fn sharded(mut self, rank: usize, world: usize) -> Result<Self> {
        if rank >= world {
            return Err(Error::config(
                "sampler",
                "rank",
                rank,
                format!("ranks go from 0 to below the number of processes, {world}"),
                "start the process with a rank of its own",
            ));
        }
        (self.rank, self.world) = (rank, world);
        Ok(self)
    }

    /// Whether an incomplete last batch is dropped (default) or served, spread evenly over the ranks.
    ///
    /// A remainder of fewer samples than ranks is dropped in any case: no rank may stand idle in a step.
    #[must_use]
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Goes through the data set shard by shard. The order of the shards is drawn. Each rank takes an equal part of the
    /// images in that order, and draws each image from a window. So ranks read different shards, except those at the
    /// edges of the parts.
    #[must_use]
    pub fn in_shards(mut self, shards: Shards) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Batches per epoch.
    pub fn iterations(&self) -> usize {
        let global = self.batch_size * self.world;
        let rest = !self.drop_last && self.len % global >= self.world;
        self.len / global + usize::from(rest)
    }

    /// The order of `epoch`.
    pub fn epoch(&self, epoch: u64) -> Order {
        if let Some(shards) = &self.shards {
            return self.epoch_in(shards, epoch);
        }
        let mut rng = stream(self.seed, Purpose::Shuffle, [epoch, 0]);
        // `new` checked that the length fits.
        let mut indices: Vec<u32> = (0..u32::try_from(self.len).unwrap_or(u32::MAX)).collect();
        for last in (1..indices.len()).rev() {
            indices.swap(last, rng.random_range(0..=last));
        }
        let batches = (0..self.iterations())
            .map(|iter| self.share(iter))
            .collect();
        Order { indices, batches }
    }

    fn epoch_in(&self, shards: &Shards, epoch: u64) -> Order {
        let counts = |rank| {
            let of_rank = move |iter| self.share_of(rank, iter).len();
            (0..self.iterations()).map(of_rank)
        };
        let first: usize = (0..self.rank).flat_map(counts).sum();
        let mine: usize = counts(self.rank).sum();
        let len = u32::try_from(self.len).unwrap_or(u32::MAX);
        let all = shards.shuffled(len, &mut stream(self.seed, Purpose::Shuffle, [epoch, 0]));
        let mut indices = all[first..first + mine].to_vec();
        let own = [epoch, 1 + self.rank as u64];
        shards.mix(&mut indices, &mut stream(self.seed, Purpose::Shuffle, own));
        let mut end = 0;
        let batches = counts(self.rank).map(|count| {
            end += count;
            end - count..end
        });
        let batches = batches.collect();
        Order { indices, batches }
    }

    /// Positions of this rank's part of global batch `iter`.
    fn share(&self, iter: usize) -> Range<usize> {
        self.share_of(self.rank, iter)
    }

    fn share_of(&self, rank: usize, iter: usize) -> Range<usize> {
        let global = self.batch_size * self.world;
        let start = iter * global;
        let count = global.min(self.len - start);
        let (whole, extra) = (count / self.world, count % self.world);
        let begin = start + rank * whole + rank.min(extra);
        begin..begin + whole + usize::from(rank < extra)
    }
}

fn check(len: usize, batch_size: usize) -> Result<u32> {
    let bad = |field: &'static str, value: usize, why: &'static str, fix: &'static str| {
        Error::config("sampler", field, value, why, fix)
    };
    if batch_size == 0 {
        return Err(bad(
            "batch_size",
            0,
            "a batch holds at least one sample",
            "choose 1 or more",
        ));
    }
    match u32::try_from(len) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(bad(
            "len",
            len,
            "a data set holds 1 to 4294967295 samples",
            "check what the data source points to",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat(order: &Order) -> Vec<u32> {
        (0..order.len())
            .flat_map(|iter| order.batch(iter).to_vec())
            .collect()
    }

    proptest! {
        #[test]
        fn ranks_share_one_permutation_without_overlap(
            len in 1usize..200, batch_size in 1usize..9, world in 1usize..5, seed: u64, drop_last: bool,
        ) {
            let sampler = EpochSampler::new(len, batch_size, seed).unwrap().drop_last(drop_last);
            let shares: Vec<Order> = (0..world)
                .map(|rank| sampler.clone().sharded(rank, world).unwrap().epoch(3))
                .collect();
            let alone = EpochSampler::new(len, batch_size * world, seed).unwrap().drop_last(drop_last).epoch(3);
            for (iter, _) in shares[0].batches.iter().enumerate() {
                let global: Vec<u32> = shares.iter().flat_map(|share| share.batch(iter).to_vec()).collect();
                prop_assert_eq!(&global[..], alone.batch(iter));
                for share in &shares {
                    prop_assert!(!share.batch(iter).is_empty());
                    prop_assert!(!drop_last || share.batch(iter).len() == batch_size);
                }
            }
            let mut seen: Vec<u32> = shares.iter().flat_map(flat).collect();
            let missing = len - seen.len();
            let allowed = if drop_last { batch_size * world } else { world };
            prop_assert!(missing < allowed);
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len() + missing, len);
            prop_assert!(shares.iter().all(|share| share.len() == shares[0].len()));
        }

        #[test]
        fn ranks_read_parts_of_the_order_of_shards(
            cuts in proptest::collection::btree_set(1usize..200, 0..8), window in 1usize..40, world in 1usize..4,
        ) {
            let starts: Vec<usize> = std::iter::once(0).chain(cuts).collect();
            let sampler = EpochSampler::new(200, 5, 1).unwrap().in_shards(Shards { starts: starts.clone(), window });
            let shares: Vec<Order> = (0..world)
                .map(|rank| sampler.clone().sharded(rank, world).unwrap().epoch(2))
                .collect();
            let mut seen: Vec<u32> = shares.iter().flat_map(flat).collect();
            let all = seen.len();
            prop_assert_eq!(all, 200 / (5 * world) * 5 * world);
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), all);
            for share in &shares {
                prop_assert!((0..share.len()).all(|iter| share.batch(iter).len() == 5));
                // A rank that draws from a window of one goes through few shards, each on end.
                if window == 1 {
                    let order = flat(share);
                    let jumps = order.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
                    prop_assert!(jumps < starts.len());
                }
            }
            prop_assert!(world < 2 || window > 1 || shares[0] != shares[1]);
        }

        #[test]
        fn orders_repeat_and_differ_by_seed_and_epoch(seed: u64, epoch in 0u64..100) {
            let order = |seed, epoch| EpochSampler::new(100, 10, seed).unwrap().epoch(epoch);
            prop_assert_eq!(order(seed, epoch), order(seed, epoch));
            prop_assert_ne!(order(seed, epoch), order(seed, epoch + 1));
            prop_assert_ne!(order(seed, epoch), order(seed.wrapping_add(1), epoch));
        }
    }

    #[test]
    fn sequential_order_ends_with_a_partial_batch() {
        let order = Order::sequential(5, 2).unwrap();
        assert_eq!(flat(&order), [0, 1, 2, 3, 4]);
        assert_eq!(
            (order.len(), order.batch(2), order.batch(3)),
            (3, &[4][..], &[][..])
        );
    }

    #[test]
    fn refuses_empty_batches_empty_sets_and_ranks_outside_the_world() {
        assert!(EpochSampler::new(5, 0, 0).is_err());
        assert!(EpochSampler::new(0, 5, 0).is_err());
        assert!(EpochSampler::new(5, 1, 0).unwrap().sharded(2, 2).is_err());
    }
}
