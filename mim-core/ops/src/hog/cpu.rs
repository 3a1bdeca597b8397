//! f32 kernels of histograms of oriented gradients.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use rayon::prelude::*;

use super::{Edge, HALF_TURN, HogFilter, HogGradient, edges, gaussian};
use crate::simd::multiversion;

/// The rows above, at and below a place, each padded by one value at both ends.
type Lines<'a> = [&'a [f32]; 3];

multiversion! {
    /// Horizontal and vertical Sobel filters along a row; the taps are added in row-major order.
    fn sobel(lines: Lines<'_>, first: &mut [f32], second: &mut [f32]) {
        let width = first.len();
        let [above, at, below] = lines.map(|line| &line[..width + 2]);
        let second = &mut second[..width];
        for x in 0..width {
            let (p00, p01, p02) = (above[x], above[x + 1], above[x + 2]);
            let (p20, p21, p22) = (below[x], below[x + 1], below[x + 2]);
            first[x] = ((((p00 - p02) + 2. * at[x]) - 2. * at[x + 2]) + p20) - p22;
            second[x] = ((((p00 + 2. * p01) + p02) - p20) - 2. * p21) - p22;
        }
    }
}

multiversion! {
    /// Replaces `second` by the bins of the directions, as whole numbers in f32, and `first` by the magnitudes.
    pub(super) fn bins_and_magnitudes(edges: &[Edge], first: &mut [f32], second: &mut [f32]) {
        for (a, b) in first.iter_mut().zip(second) {
            let turn = if *a < 0. { -1. } else { 1. };
            let (rise, run) = (*a * turn, *b * turn);
            let mut bin = 0f32;
            for edge in edges {
                let cos = if *a < 0. { edge.cos[1] } else { edge.cos[0] };
                bin += if rise * cos >= run * edge.sin { 1. } else { 0. };
            }
            let half_turn = *a > 0. && *a < -*b * HALF_TURN;
            *a = (rise * rise + run * run).sqrt();
            *b = if rise > 0. && !half_turn { bin } else { 0. };
        }
    }
}

/// Histograms `[planes, bins, rows, cols]` of the planes of `images`.
pub(super) fn hog(images: &[f32], (height, width): (usize, usize), filter: HogFilter) -> Vec<f32> {
    let (rows, cols) = (height / filter.cell, width / filter.cell);
    let plane = filter.bins * rows * cols;
    let (edges, window) = (edges(filter.bins), filter.window.map(gaussian));
    let mut histograms = vec![0f32; images.len() / (height * width).max(1) * plane];
    histograms
        .par_chunks_mut(plane)
        .zip(images.par_chunks(height * width))
        .for_each(|(histogram, image)| {
            let (mut first, mut second) = (vec![0f32; width], vec![0f32; width]);
            for y in 0..height {
                match filter.gradient {
                    HogGradient::Sobel => {
                        sobel_row(image, y, (height, width), &mut first, &mut second)
                    }
                    HogGradient::Central => {
                        central_row(image, y, (height, width), &mut first, &mut second)
                    }
                }
                bins_and_magnitudes(&edges, &mut first, &mut second);
                if let (Some(window), Some(side)) = (&window, filter.window) {
                    let weights = &window[y % side * side..][..side];
                    for (magnitude, weight) in first.iter_mut().zip(weights.iter().cycle()) {
                        *magnitude *= weight;
                    }
                }
                for (x, (magnitude, bin)) in first.iter().zip(&second).enumerate() {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "a small whole number"
                    )]
                    let bin = *bin as usize;
                    histogram[(bin * rows + y / filter.cell) * cols + x / filter.cell] += magnitude;
                }
            }
        });
    histograms
}

fn sobel_row(
    image: &[f32],
    y: usize,
    (height, width): (usize, usize),
    first: &mut [f32],
    second: &mut [f32],
) {
    // Reflect at the edges without repeating the edge row.
    let line = |y: usize| {
        let row = &image[y * width..][..width];
        let mut line = Vec::with_capacity(width + 2);
        line.push(row[1]);
        line.extend_from_slice(row);
        line.push(row[width - 2]);
        line
    };
    let above = line(if y == 0 { 1 } else { y - 1 });
    let below = line(if y + 1 == height { height - 2 } else { y + 1 });
    sobel([&above, &line(y), &below], first, second);
}

fn central_row(
    image: &[f32],
    y: usize,
    (height, width): (usize, usize),
    first: &mut [f32],
    second: &mut [f32],
) {
    let row = |y: usize| &image[y * width..][..width];
    if y == 0 || y + 1 == height {
        first.fill(0.);
    } else {
        for ((out, below), above) in first.iter_mut().zip(row(y + 1)).zip(row(y - 1)) {
            *out = below - above;
        }
    }
    second.fill(0.);
    for (out, three) in second[1..].iter_mut().zip(row(y).windows(3)) {
        *out = three[2] - three[0];
    }
}
