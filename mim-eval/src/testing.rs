//! Features for tests.

use mim_core::rng::{Purpose, stream};
use rand::RngExt;

use crate::Features;

/// `count` features of width 4 around the means of three classes, which overlap.
pub(crate) fn blobs(count: u32, seed: u64) -> Features {
    let mut rng = stream(seed, Purpose::Method, [0, 0]);
    let labels: Vec<u32> = (0..count).map(|image| image % 3).collect();
    let mut row = |class: u32| -> Vec<f32> {
        let mean = |column: u32| if column == class { 1.2 } else { 0. };
        (0..4)
            .map(|column| mean(column) + rng.random::<f32>() * 2. - 1.)
            .collect()
    };
    let values = labels.iter().flat_map(|class| row(*class)).collect();
    Features::new(values, 4, labels).unwrap()
}
