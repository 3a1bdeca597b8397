//! Reads single pixels of bicubically resized maps.

use rayon::prelude::*;

use crate::PatchGrid;
use crate::nn::bicubic::taps;

/// Feature maps that are read as if they were resized to a square.
pub(super) struct Resized<'a> {
    /// `[maps, tokens, channels]`.
    pub(super) values: &'a [f32],
    pub(super) grid: PatchGrid,
    pub(super) channels: usize,
    /// Side of the square in pixels.
    pub(super) side: usize,
}

/// A pixel of a resized map: (map, row, column).
pub(super) type Pixel = (usize, usize, usize);

impl Resized<'_> {
    /// The features of pixels, `[pixels, channels]` (a = -0.75, edges repeated, no antialiasing).
    pub(super) fn read(&self, pixels: &[Pixel]) -> Vec<f32> {
        let along = |from: usize| taps(from, self.side, from as f64 / self.side as f64);
        let (rows, columns) = (along(self.grid.rows), along(self.grid.cols));
        let mut features = vec![0f32; pixels.len() * self.channels];
        features.par_chunks_mut(self.channels).zip(pixels).for_each(
            |(feature, &(map, row, column))| {
                let map = &self.values[map * self.grid.len() * self.channels..];
                let mut line = vec![0f32; self.channels];
                for (y, vertical) in rows[row] {
                    line.fill(0.);
                    for (x, horizontal) in columns[column] {
                        let token = &map[(y * self.grid.cols + x) * self.channels..];
                        for (sum, value) in line.iter_mut().zip(token) {
                            *sum += horizontal * value;
                        }
                    }
                    for (sum, value) in feature.iter_mut().zip(&line) {
                        *sum += vertical * value;
                    }
                }
            },
        );
        features
    }
}
