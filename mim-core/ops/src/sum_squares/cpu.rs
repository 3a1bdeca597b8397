//! The f32 kernel of the sum of squares.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use rayon::prelude::*;

use crate::partition::rows_per_task;
use crate::simd::multiversion;

/// Number of partial sums: four AVX-512 registers, so that their latencies overlap.
const LANES: usize = 32;

multiversion! {
    fn block(xs: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let mut chunks = xs.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*x) * f64::from(*x);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
            *lane += f64::from(*x) * f64::from(*x);
        }
        lanes.iter().sum()
    }
}

/// The sum of squares: blocks of fixed size, added in order.
pub(super) fn sum_squares(xs: &[f32]) -> f64 {
    let blocks: Vec<f64> = xs.par_chunks(rows_per_task(1)).map(block).collect();
    blocks.iter().sum()
}
