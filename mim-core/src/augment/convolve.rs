//! Pillow's resampling, byte for byte: rows first, then columns, with weights of 22 fractional bits.
//!
//! Pillow 13 resizes the columns first where the height shrinks by more than twice as many pixels as the width. Its
//! bytes then differ from these by rounding. These follow the older versions, with which the recorded values were made.

use super::Interpolation;
use crate::simd::simd_dispatch;

/// Fractional bits of a weight: 32, less the 8 of a pixel and 2 for sums that overshoot.
const BITS: u32 = 22;

/// The weights of each output position along an axis.
struct Weights {
    /// First input position of each output position.
    starts: Vec<usize>,
    /// Where the weights of each output position end in `values`.
    ends: Vec<usize>,
    values: Vec<i32>,
}

impl Weights {
    /// Weights from `input` to `output` positions. The filter is widened when shrinking.
    fn new(input: usize, output: usize, filter: Interpolation) -> Self {
        let mut all = Self {
            starts: Vec::with_capacity(output),
            ends: Vec::with_capacity(output),
            values: Vec::new(),
        };
        for (first, weights) in exact(input, output, filter) {
            all.starts.push(first);
            all.values.extend(weights.into_iter().map(fixed));
            all.ends.push(all.values.len());
        }
        all
    }

    /// First input position and weights of each output position.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let ranges = begins.zip(self.ends.iter().copied());
        let values = ranges.map(|(begin, end)| &self.values[begin..end]);
        self.starts.iter().copied().zip(values)
    }
}

/// First input position and weights, whose sum is 1, of each output position.
fn exact(
    input: usize,
    output: usize,
    filter: Interpolation,
) -> impl Iterator<Item = (usize, Vec<f64>)> {
    let scale = input as f64 / output as f64;
    let wide = scale.max(1.);
    let (support, narrow) = (filter.support() * wide, 1. / wide);
    (0..output).map(move |position| {
        let center = (position as f64 + 0.5) * scale;
        let first = whole(center - support + 0.5);
        let end = whole(center + support + 0.5).min(input);
        let weight = |at: usize| filter.weight((at as f64 - center + 0.5) * narrow);
        let mut weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        (first, weights)
    })
}

/// The whole part of a number, or 0 below zero.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions in an image, and the cast saturates"
)]
fn whole(value: f64) -> usize {
    value as usize
}

#[expect(clippy::cast_possible_truncation, reason = "weights are near 1")]
fn fixed(weight: f64) -> i32 {
    // Rounded half away from zero.
    (weight * f64::from(1u32 << BITS)).round() as i32
}

/// Bytes from sums of weighted pixels. A sum starts at one half, so that it is rounded.
#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "the value is clamped to a byte")]
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

impl Interpolation {
    /// Radius of the filter in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.,
            Self::Bicubic => 2.,
            Self::Lanczos => 3.,
        }
    }

    /// The filter at distance `x`.
    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Self::Bilinear => (1. - distance).max(0.),
            Self::Bicubic if distance < 1. => (1.5 * distance - 2.5) * distance * distance + 1.,
            // The order of these operations decides the last bit of a weight.
            Self::Bicubic if distance < 2. => {
                (((distance - 5.) * distance + 8.) * distance - 4.) * -0.5
            }
            Self::Bicubic => 0.,
            Self::Lanczos if (-3. ..3.).contains(&x) => sinc(x) * sinc(x / 3.),
            Self::Lanczos => 0.,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0. {
        return 1.;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// Rows resized at a time. They lie side by side, so that one instruction adds a weighted byte of each of them.
const ROWS: usize = 16;

/// The bytes of some rows at one place.
type Column = [u8; ROWS];

/// Rows of `channels` bytes per pixel, resized to as many columns as there are weights.
fn narrow(rows: &[&[u8]], channels: usize, weights: &Weights) -> Vec<u8> {
    let stride = weights.starts.len() * channels;
    let mut all = vec![0; rows.len() * stride];
    let mut columns = vec![[0; ROWS]; rows.first().map_or(0, |row| row.len())];
    let mut narrowed = vec![[0; ROWS]; stride];
    for (rows, all) in rows.chunks(ROWS).zip(all.chunks_mut(ROWS * stride)) {
        // The last rows are fewer, and the last of them stands in for those that lack.
        let block = std::array::from_fn(|row| rows[row.min(rows.len() - 1)]);
        to_columns(&mut columns, &block);
        add_columns(&mut narrowed, &columns, channels, weights);
        to_rows(all, &narrowed);
    }
    all
}

simd_dispatch! {
    fn to_columns<'a>(columns: &'a mut [Column], rows: &'a [&'a [u8]; ROWS]) {
        let (blocks, rest) = columns.as_chunks_mut::<ROWS>();
        let done = blocks.len() * ROWS;
        for (at, block) in blocks.iter_mut().enumerate() {
            let mut square = [[0; ROWS]; ROWS];
            for row in 0..ROWS {
                square[row].copy_from_slice(&rows[row][at * ROWS..][..ROWS]);
            }
            *block = transposed(square);
        }
        for (at, column) in rest.iter_mut().enumerate() {
            *column = rows.map(|row| row[done + at]);
        }
    }
}

simd_dispatch! {
    fn add_columns<'a>(narrowed: &'a mut [Column], columns: &'a [Column], channels: usize, weights: &'a Weights) {
        for (pixel, (start, weights)) in narrowed.chunks_exact_mut(channels).zip(weights.iter()) {
            for (channel, narrowed) in pixel.iter_mut().enumerate() {
                let columns = columns[start * channels + channel..].iter().step_by(channels);
                let mut sums = [1i32 << (BITS - 1); ROWS];
                for (weight, column) in weights.iter().zip(columns) {
                    for row in 0..ROWS {
                        sums[row] += weight * i32::from(column[row]);
                    }
                }
                *narrowed = sums.map(byte);
            }
        }
    }
}

simd_dispatch! {
    fn to_rows<'a>(rows: &'a mut [u8], columns: &'a [Column]) {
        let (blocks, rest) = columns.as_chunks::<ROWS>();
        for row in 0..rows.len() / columns.len() {
            let rest = rest.iter().map(|column| column[row]);
            let begin = row * columns.len() + blocks.len() * ROWS;
            rows[begin..].iter_mut().zip(rest).for_each(|(to, from)| *to = from);
        }
        for (at, block) in blocks.iter().enumerate() {
            let square = transposed(*block);
            for (row, bytes) in rows.chunks_exact_mut(columns.len()).zip(square) {
                row[at * ROWS..][..ROWS].copy_from_slice(&bytes);
            }
        }
    }
}

/// Rows become columns. Each of the four rounds interleaves the upper half of the rows with the lower half, for which
/// processors have instructions.
#[inline(always)]
fn transposed(mut square: [[u8; ROWS]; ROWS]) -> [[u8; ROWS]; ROWS] {
    for _ in 0..ROWS.ilog2() {
        let halves = square;
        for row in 0..ROWS / 2 {
            for at in 0..ROWS {
                square[2 * row][at] = halves[row + ROWS / 2 * (at % 2)][at / 2];
                square[2 * row + 1][at] = halves[row + ROWS / 2 * (at % 2)][ROWS / 2 + at / 2];
            }
        }
    }
    square
}

simd_dispatch! {
    /// Adds a weighted row to the sums.
    fn add_row<'a>(sums: &'a mut [i32], row: &'a [u8], weight: i32) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += weight * i32::from(*value);
        }
    }
}

/// Rows of `stride` bytes, resized to as many rows as there are weights.
fn shorten(pixels: &[u8], stride: usize, weights: &Weights) -> Vec<u8> {
    let mut all = Vec::with_capacity(stride * weights.starts.len());
    let mut sums = vec![0; stride];
    for (start, weights) in weights.iter() {
        sums.fill(1i32 << (BITS - 1));
        let rows = pixels[start * stride..].chunks_exact(stride);
        for (weight, row) in weights.iter().zip(rows) {
            add_row(&mut sums, row, *weight);
        }
        all.extend(sums.iter().map(|sum| byte(*sum)));
    }
    all
}

/// Resizes the box `[top, left, height, width]` of an image to `[rows, cols]`. The image has `channels` bytes per
/// pixel and `stride` bytes per row.
pub(super) fn convolve(
    (pixels, stride, channels): (&[u8], usize, usize),
    [top, left, height, width]: [usize; 4],
    [rows, cols]: [usize; 2],
    filter: Interpolation,
) -> Vec<u8> {
    let lines = pixels.chunks_exact(stride).skip(top).take(height);
    let (begin, end) = (left * channels, (left + width) * channels);
    let lines: Vec<_> = lines.map(|line| &line[begin..end]).collect();
    let narrowed = match width == cols {
        true => lines.concat(),
        false => narrow(&lines, channels, &Weights::new(width, cols, filter)),
    };
    let stride = cols * channels;
    match height == rows {
        true => narrowed,
        false => shorten(&narrowed, stride, &Weights::new(height, rows, filter)),
    }
}

/// Resizes the box `[top, left, height, width]` of an image of `channels` values per pixel and `stride` values per row
/// to `[rows, cols]`, as Pillow does for images of mode F, with sums in f64.
pub(super) fn convolve_values(
    (values, stride, channels): (&[f32], usize, usize),
    [top, left, height, width]: [usize; 4],
    [rows, cols]: [usize; 2],
    filter: Interpolation,
) -> Vec<f32> {
    let across: Vec<_> = exact(width, cols, filter).collect();
    let mut narrowed = Vec::with_capacity(height * cols * channels);
    for line in values.chunks_exact(stride).skip(top).take(height) {
        let line = &line[left * channels..(left + width) * channels];
        for (first, weights) in &across {
            for channel in 0..channels {
                let at = |step: usize| f64::from(line[(first + step) * channels + channel]);
                let terms = weights.iter().enumerate();
                let sum: f64 = terms.map(|(step, weight)| weight * at(step)).sum();
                narrowed.push(rounded(sum));
            }
        }
    }
    let stride = cols * channels;
    let mut resized = Vec::with_capacity(rows * stride);
    for (first, weights) in exact(height, rows, filter) {
        for place in 0..stride {
            let at = |step: usize| f64::from(narrowed[(first + step) * stride + place]);
            let terms = weights.iter().enumerate();
            let sum: f64 = terms.map(|(step, weight)| weight * at(step)).sum();
            resized.push(rounded(sum));
        }
    }
    resized
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounds to the type of the image"
)]
fn rounded(sum: f64) -> f32 {
    sum as f32
}
