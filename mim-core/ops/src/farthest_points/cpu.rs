//! Farthest point sampling of one cloud in f32.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use crate::point_axes::BLOCK;
use crate::simd::multiversion;

/// Initial distance of a point that may be chosen.
const FAR: f32 = 1e10;
/// Distance of a point that is never chosen: every squared distance is larger.
const NEVER: f32 = -1.;

multiversion! {
    /// Fills `ids`; `axes` is the output of `apart` for a cloud of `size` points.
    pub(super) fn farthest(axes: &[f32], size: usize, hollow: f32, ids: &mut [u32]) {
        let padded = axes.len() / 3;
        let (xs, rest) = axes.split_at(padded);
        let (ys, zs) = rest.split_at(padded);
        let mut distances = vec![NEVER; padded];
        for (place, distance) in distances[..size].iter_mut().enumerate() {
            let (x, y, z) = (xs[place], ys[place], zs[place]);
            if x * x + y * y + z * z > hollow {
                *distance = FAR;
            }
        }
        let mut last = 0;
        for (place, id) in ids.iter_mut().enumerate() {
            if place > 0 {
                let point = [xs[last], ys[last], zs[last]];
                let largest = approach(&mut distances, [xs, ys, zs], point);
                last = if largest < 0. { 0 } else { first(&distances, largest) };
            }
            #[expect(clippy::cast_possible_truncation, reason = "a cloud has fewer than 2^32 points")]
            let found = last as u32;
            *id = found;
        }
    }
}

/// Lowers each distance to the distance from `point` if that is smaller; returns the largest distance.
#[inline(always)]
fn approach(distances: &mut [f32], axes: [&[f32]; 3], point: [f32; 3]) -> f32 {
    let [xs, ys, zs] = axes;
    let mut lanes = [NEVER; BLOCK];
    let blocks = distances.as_chunks_mut::<BLOCK>().0.iter_mut();
    let (xs, ys, zs) = (
        xs.as_chunks::<BLOCK>().0,
        ys.as_chunks::<BLOCK>().0,
        zs.as_chunks::<BLOCK>().0,
    );
    for (((distances, xs), ys), zs) in blocks.zip(xs).zip(ys).zip(zs) {
        for lane in 0..BLOCK {
            let (dx, dy, dz) = (
                xs[lane] - point[0],
                ys[lane] - point[1],
                zs[lane] - point[2],
            );
            let new = dx * dx + dy * dy + dz * dz;
            let old = distances[lane];
            let kept = if new < old { new } else { old };
            distances[lane] = kept;
            lanes[lane] = if kept > lanes[lane] {
                kept
            } else {
                lanes[lane]
            };
        }
    }
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    lanes.into_iter().fold(NEVER, larger)
}

/// Index of the first occurrence of a value.
#[inline(always)]
fn first(distances: &[f32], value: f32) -> usize {
    for (block, distances) in distances.as_chunks::<BLOCK>().0.iter().enumerate() {
        let here = distances
            .iter()
            .fold(false, |found, distance| found | (*distance == value));
        if here {
            let lane = distances.iter().position(|distance| *distance == value);
            return block * BLOCK + lane.unwrap_or(0);
        }
    }
    0
}
