//! The nearest points of one cloud in f32.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls what the machine was found to have"
)]

use crate::point_axes::BLOCK;
use crate::simd::multiversion;

/// Places of a block.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const STEP: u32 = BLOCK as u32;

multiversion! {
    /// Fills `ids`, `count` for each query `[x, y, z]`; `axes` are those of `apart`, filled up with infinity.
    pub(super) fn nearest(axes: &[f32], queries: &[f32], count: usize, ids: &mut [u32]) {
        let mut distances = vec![0f32; axes.len() / 3];
        let mut best = vec![0f32; count];
        let queries = queries.as_chunks::<3>().0;
        for (query, ids) in queries.iter().zip(ids.chunks_exact_mut(count)) {
            measure(axes, *query, &mut distances);
            select(&distances, &mut best, ids);
        }
    }
}

/// Squared distances of all points to `query`.
#[inline(always)]
fn measure(axes: &[f32], query: [f32; 3], distances: &mut [f32]) {
    let (xs, rest) = axes.split_at(distances.len());
    let (ys, zs) = rest.split_at(distances.len());
    for (((distance, x), y), z) in distances.iter_mut().zip(xs).zip(ys).zip(zs) {
        let (dx, dy, dz) = (query[0] - x, query[1] - y, query[2] - z);
        *distance = dx * dx + dy * dy + dz * dz;
    }
}

/// The places of the smallest distances in ascending order, the lower place first where they are equal.
#[inline(always)]
fn select(distances: &[f32], best: &mut [f32], ids: &mut [u32]) {
    best.fill(f32::INFINITY);
    let last = best.len() - 1;
    for (block, distances) in (0u32..).zip(distances.as_chunks::<BLOCK>().0) {
        let worst = best[last];
        let nearer = distances
            .iter()
            .fold(false, |found, distance| found | (*distance < worst));
        if !nearer {
            continue;
        }
        for (place, &distance) in (block * STEP..).zip(distances) {
            if distance < best[last] {
                let mut at = last;
                while at > 0 && distance < best[at - 1] {
                    best[at] = best[at - 1];
                    ids[at] = ids[at - 1];
                    at -= 1;
                }
                (best[at], ids[at]) = (distance, place);
            }
        }
    }
}
