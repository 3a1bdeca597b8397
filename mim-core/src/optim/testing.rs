//! Random tensors for the tests.

use candle_core::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Values in [-2, 2), determined by seed and shape.
pub(super) fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-2f32..2.)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}
