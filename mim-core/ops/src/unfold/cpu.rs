//! f32 kernels of windows, without unsafe code.

use rayon::prelude::*;

use super::Window;
use crate::partition::rows_per_task;

/// Sizes of the maps, of the grid of windows, and of the windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    pub(super) input: (usize, usize),
    pub(super) output: (usize, usize),
    pub(super) channels: usize,
    pub(super) window: Window,
}

impl Geometry {
    /// Values per window.
    pub(super) fn values(self) -> usize {
        self.window.kernel * self.window.kernel * self.channels
    }

    /// The part of window `col` inside a row of the map, in pixels: its start in the row, its start in
    /// the window, and its length.
    fn span(self, col: usize) -> (usize, usize, usize) {
        let Window {
            kernel,
            stride,
            padding,
        } = self.window;
        let start = col * stride;
        let skipped = padding.saturating_sub(start).min(kernel);
        let from = (start + skipped).saturating_sub(padding).min(self.input.1);
        let length = (kernel - skipped).min(self.input.1 - from);
        (from, skipped, length)
    }
}

/// All windows, `[batch, rows, cols, kernel, kernel, channels]`.
pub(super) fn forward(xs: &[f32], size: Geometry) -> Vec<f32> {
    let ((height, width), (rows, cols)) = (size.input, size.output);
    let (values, channels, kernel) = (size.values(), size.channels, size.window.kernel);
    let mut ys = vec![0f32; size.batch * rows * cols * values];
    let line = cols * values;
    let task = rows_per_task(line);
    ys.par_chunks_mut((task * line).max(1))
        .enumerate()
        .for_each(|(chunk, ys)| {
            for (index, out) in (chunk * task..).zip(ys.chunks_exact_mut(line)) {
                let (image, row) = (index / rows, index % rows);
                for tap in 0..kernel {
                    let place = row * size.window.stride + tap;
                    let Some(y) = place
                        .checked_sub(size.window.padding)
                        .filter(|y| *y < height)
                    else {
                        continue;
                    };
                    let source = &xs[(image * height + y) * width * channels..][..width * channels];
                    for (col, window) in out.chunks_exact_mut(values).enumerate() {
                        let (from, to, length) = size.span(col);
                        let target = &mut window[(tap * kernel + to) * channels..];
                        target[..length * channels]
                            .copy_from_slice(&source[from * channels..][..length * channels]);
                    }
                }
            }
        });
    ys
}

/// The sum of all window gradients at each pixel.
///
/// Each row of a map is computed by one task, which adds the windows from top left to bottom right.
pub(super) fn backward(grad: &[f32], size: Geometry) -> Vec<f32> {
    let ((height, width), (rows, cols)) = (size.input, size.output);
    let (values, channels, kernel) = (size.values(), size.channels, size.window.kernel);
    let mut dx = vec![0f32; size.batch * height * width * channels];
    let line = width * channels;
    let task = rows_per_task(line * kernel);
    dx.par_chunks_mut((task * line).max(1))
        .enumerate()
        .for_each(|(chunk, dx)| {
            for (index, out) in (chunk * task..).zip(dx.chunks_exact_mut(line)) {
                let (image, y) = (index / height, index % height);
                let place = y + size.window.padding;
                let first = (place + 1)
                    .saturating_sub(kernel)
                    .div_ceil(size.window.stride);
                for row in first..rows.min(place / size.window.stride + 1) {
                    let tap = place - row * size.window.stride;
                    let source = &grad[(image * rows + row) * cols * values..][..cols * values];
                    for (col, window) in source.chunks_exact(values).enumerate() {
                        let (to, from, length) = size.span(col);
                        let part = &window[(tap * kernel + from) * channels..][..length * channels];
                        for (out, g) in out[to * channels..].iter_mut().zip(part) {
                            *out += g;
                        }
                    }
                }
            }
        });
    dx
}
