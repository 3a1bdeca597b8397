//! The nearest points of one cloud in f32.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use crate::point_axes::BLOCK;
use crate::simd::multiversion;

/// Points per block.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const STEP: u32 = BLOCK as u32;

multiversion! {
    /// Fills `ids`, `count` for each query `[x, y, z]`; `axes` is the output of `apart`, padded with infinity.
    pub(super) fn nearest(axes: &[f32], queries: &[f32], count: usize, ids: &mut [u32]) {
        let mut distances = vec![0f32; axes.len() / 3];
        // Twice as many sets as requested points: then few other points are nearer than the bound.
        let mut smallest = vec![[f32::INFINITY; BLOCK]; (2 * count).div_ceil(BLOCK)];
        let mut found = Vec::new();
        let queries = queries.as_chunks::<3>().0;
        for (query, ids) in queries.iter().zip(ids.chunks_exact_mut(count)) {
            measure(axes, *query, &mut distances, &mut smallest);
            let bound = bound(&mut smallest, count);
            collect(&distances, bound, &mut found);
            found.sort_unstable();
            for (id, key) in ids.iter_mut().zip(&found) {
                #[expect(clippy::cast_possible_truncation, reason = "the lower half is the index")]
                let place = *key as u32;
                *id = place;
            }
        }
    }
}

/// Squared distances of all points to `query`, and the smallest of each set. The blocks are dealt out to the rows of
/// `smallest`; a set is what falls on one position of a row.
#[inline(always)]
fn measure(axes: &[f32], query: [f32; 3], distances: &mut [f32], smallest: &mut [[f32; BLOCK]]) {
    let (xs, rest) = axes.split_at(distances.len());
    let (ys, zs) = rest.split_at(distances.len());
    let axes = [xs, ys, zs].map(|axis| axis.as_chunks::<BLOCK>().0);
    smallest.fill([f32::INFINITY; BLOCK]);
    let rows = smallest.len();
    for (index, block) in distances.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let [xs, ys, zs] = axes.map(|axis| &axis[index]);
        let smallest = &mut smallest[index % rows];
        for lane in 0..BLOCK {
            let (dx, dy, dz) = (
                query[0] - xs[lane],
                query[1] - ys[lane],
                query[2] - zs[lane],
            );
            let distance = dx * dx + dy * dy + dz * dz;
            block[lane] = distance;
            smallest[lane] = if distance < smallest[lane] {
                distance
            } else {
                smallest[lane]
            };
        }
    }
}

/// A distance within which there are at least `count` points: `count` sets contain such a point. Infinity if fewer
/// sets have points.
#[inline(always)]
fn bound(smallest: &mut [[f32; BLOCK]], count: usize) -> f32 {
    let all = smallest.as_flattened_mut();
    *all.select_nth_unstable_by(count - 1, f32::total_cmp).1
}

/// Points within `bound`, each as one number: the bits of its distance above its index. A non-negative float is ordered
/// like its bits, so these numbers sort by distance, then by index.
#[inline(always)]
fn collect(distances: &[f32], bound: f32, found: &mut Vec<u64>) {
    found.clear();
    for (block, distances) in (0u32..).zip(distances.as_chunks::<BLOCK>().0) {
        let near = distances
            .iter()
            .fold(false, |near, distance| near | (*distance <= bound));
        if !near {
            continue;
        }
        for (place, &distance) in (block * STEP..).zip(distances) {
            // The padding of the last block is infinitely far.
            if distance <= bound && distance < f32::INFINITY {
                found.push(u64::from(distance.to_bits()) << 32 | u64::from(place));
            }
        }
    }
}
