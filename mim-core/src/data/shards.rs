//! The order of images in data sets that are best read shard by shard.

use rand::{Rng, RngExt};

/// Images that lie together, such as those of one file, and how an epoch goes through them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards {
    /// The index of each shard's first image, ascending from 0.
    pub starts: Vec<usize>,
    /// Number of images from which the next one is drawn.
    pub window: usize,
}

impl Shards {
    /// The shards of the images `indices` (ascending) of a data set.
    pub(super) fn of_some(&self, indices: &[usize]) -> Self {
        let start = |start: &usize| indices.partition_point(|index| index < start);
        let mut starts: Vec<usize> = self.starts.iter().map(start).collect();
        starts.dedup();
        Self {
            starts,
            window: self.window,
        }
    }

    /// All of `len` images, shard after shard in a drawn order.
    pub(super) fn shuffled(&self, len: u32, rng: &mut impl Rng) -> Vec<u32> {
        let edge = |start: &usize| u32::try_from(*start).map_or(len, |start| start.min(len));
        let mut edges: Vec<u32> = self.starts.iter().map(edge).collect();
        edges.push(len);
        let mut shards: Vec<(u32, u32)> = edges.windows(2).map(|pair| (pair[0], pair[1])).collect();
        for last in (1..shards.len()).rev() {
            shards.swap(last, rng.random_range(0..=last));
        }
        shards.into_iter().flat_map(|(from, to)| from..to).collect()
    }

    /// Draws each of `indices` in turn from the window that begins with it.
    pub(super) fn mix(&self, indices: &mut [u32], rng: &mut impl Rng) {
        for place in 0..indices.len() {
            let end = indices.len().min(place + self.window.max(1));
            indices.swap(place, rng.random_range(place..end));
        }
    }
}
