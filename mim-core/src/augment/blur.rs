//! Gaussian blur.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{ImageOp, Sample, check_probability, check_range, happens, uniform};
use crate::Result;
use crate::simd::simd_dispatch;

/// Number of box blurs that approximate one Gaussian.
const PASSES: usize = 3;

/// Blurs with a Gaussian of random width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaussianBlur {
    /// Range of the standard deviation in pixels.
    pub radius: [f64; 2],
    /// Probability, 0.5 by default.
    pub p: f64,
}

impl Default for GaussianBlur {
    fn default() -> Self {
        Self {
            radius: [0.1, 2.],
            p: 0.5,
        }
    }
}

impl ImageOp for GaussianBlur {
    fn check(&self) -> Result<()> {
        check_probability("gaussian_blur", self.p)?;
        check_range("gaussian_blur", "radius", self.radius, 0.)
    }

    fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        if !happens(rng, self.p) {
            return Ok(sample);
        }
        let radius = uniform(rng, self.radius);
        Ok(gaussian_blur(sample, radius))
    }
}

/// Blurs with a Gaussian of standard deviation `radius` pixels, edges repeated; 0 leaves the image alone.
///
/// Pillow's approximation: three box blurs per direction, whose fractional width gives the variance wanted (Gwosdek et
/// al., SSVM 2011). Results between the blurs are bytes.
pub fn gaussian_blur(mut sample: Sample, radius: f64) -> Sample {
    if radius <= 0. || !radius.is_finite() {
        return sample;
    }
    let window = Window::new(radius);
    let (height, width, channels) = (sample.height, sample.width, sample.channels);
    if sample.is_deep() {
        for row in sample.values.chunks_exact_mut(width * channels) {
            blur_values(row, channels, &window);
        }
        blur_values(&mut sample.values, width * channels, &window);
        return sample;
    }
    let mut pixels = transposed(&sample.pixels, (height, width), channels);
    blur_lines(&mut pixels, height * channels, &window);
    let mut pixels = transposed(&pixels, (width, height), channels);
    blur_lines(&mut pixels, width * channels, &window);
    sample.pixels = pixels;
    sample
}

/// A box of `2 * reach + 1` full cells with a fraction of a cell at either end; weights in 1/2^24.
struct Window {
    reach: usize,
    full: u32,
    end: u32,
}

impl Window {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "Pillow computes in f32, and truncates"
    )]
    fn new(radius: f64) -> Self {
        let variance = (radius * radius / PASSES as f64) as f32;
        let length = (12. * f64::from(variance) + 1.).sqrt() as f32;
        let whole = ((length - 1.) / 2.).floor();
        let fraction = (2. * whole + 1.) * (whole * (whole + 1.) - 3. * variance)
            / (6. * (variance - (whole + 1.) * (whole + 1.)));
        let half = whole + fraction;
        let reach = half as usize;
        let full = ((1 << 24) as f32 / (half * 2. + 1.)) as u32;
        let end = ((1 << 24) - (2 * reach as u32 + 1) * full) / 2;
        Self { reach, full, end }
    }
}

simd_dispatch! {
    /// Blurs [`PASSES`] times along the outer axis of `[lines, line]` bytes.
    fn blur_lines<'a>(pixels: &'a mut Vec<u8>, line: usize, window: &'a Window) {
        let lines = pixels.len() / line;
        let mut target = vec![0; pixels.len()];
        let mut sums = vec![0u32; line];
        for _ in 0..PASSES {
            let at = |index: usize| {
                let index = index.saturating_sub(window.reach + 1).min(lines - 1);
                &pixels[index * line..][..line]
            };
            // `at(i + reach + 1)` is line i, so that lines before the first need no negative index.
            sums.fill(0);
            for index in 1..=2 * window.reach + 1 {
                for (sum, value) in sums.iter_mut().zip(at(index)) {
                    *sum += u32::from(*value);
                }
            }
            for (index, row) in target.chunks_exact_mut(line).enumerate() {
                let (before, after) = (at(index), at(index + 2 * window.reach + 2));
                let places = before.iter().zip(after).zip(at(index + 1));
                for ((value, sum), ((before, after), leaving)) in
                    row.iter_mut().zip(&mut sums).zip(places)
                {
                    let (before, after) = (u32::from(*before), u32::from(*after));
                    let weighted = *sum * window.full + (before + after) * window.end;
                    *value = ((weighted + (1 << 23)) >> 24) as u8;
                    *sum = *sum + after - u32::from(*leaving);
                }
            }
            std::mem::swap(pixels, &mut target);
        }
    }
}

/// Blurs f32 values `[lines, line]` in the same way, with sums in f64.
#[expect(clippy::cast_possible_truncation, reason = "values of an image as f32")]
fn blur_values(values: &mut [f32], line: usize, window: &Window) {
    let lines = values.len() / line;
    let [full, end] = [window.full, window.end].map(|weight| f64::from(weight) / (1 << 24) as f64);
    let mut blurred = vec![0f32; values.len()];
    for _ in 0..PASSES {
        for place in 0..line {
            // Position i is line i - reach - 1, and edges are repeated.
            let at = |index: usize| {
                let index = index.saturating_sub(window.reach + 1).min(lines - 1);
                f64::from(values[index * line + place])
            };
            let mut sum: f64 = (1..=2 * window.reach + 1).map(at).sum();
            for index in 0..lines {
                let (before, after) = (at(index), at(index + 2 * window.reach + 2));
                blurred[index * line + place] = (sum * full + (before + after) * end) as f32;
                sum += after - at(index + 1);
            }
        }
        values.copy_from_slice(&blurred);
    }
}

/// `[height, width, channels]` as `[width, height, channels]`.
fn transposed(pixels: &[u8], size: (usize, usize), channels: usize) -> Vec<u8> {
    match channels {
        3 => transposed_chunks::<3>(pixels, size),
        _ => transposed_chunks::<1>(pixels, size),
    }
}

fn transposed_chunks<const CHANNELS: usize>(
    pixels: &[u8],
    (height, width): (usize, usize),
) -> Vec<u8> {
    /// Rows of a block, so few that their cache lines stay in the cache while all columns are visited.
    const ROWS: usize = 16;
    let mut target = vec![0; pixels.len()];
    let (pixels, lines) = (
        pixels.as_chunks::<CHANNELS>().0,
        target.as_chunks_mut::<CHANNELS>().0,
    );
    for top in (0..height).step_by(ROWS) {
        let rows = top..(top + ROWS).min(height);
        for (col, line) in lines.chunks_exact_mut(height).enumerate() {
            for (row, place) in rows.clone().zip(&mut line[rows.clone()]) {
                *place = pixels[row * width + col];
            }
        }
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_image_stays_plain_at_any_radius() {
        for radius in [0.05, 0.1, 0.7, 2., 9., 40.] {
            let plain = Sample::new(vec![255; 5 * 3 * 3], (5, 3), 3).unwrap();
            assert_eq!(gaussian_blur(plain.clone(), radius), plain, "{radius}");
        }
    }

    #[test]
    fn transposing_twice_gives_the_image_back() {
        let bytes: Vec<u8> = (0..19 * 35 * 3).map(|at| (at % 253) as u8).collect();
        let turned = transposed(&bytes, (19, 35), 3);
        assert_eq!(turned[3..6], bytes[35 * 3..][..3]);
        assert_eq!(transposed(&turned, (35, 19), 3), bytes);
    }

    #[test]
    fn the_variance_of_a_blurred_dot_is_the_squared_radius() {
        let mut line = vec![0; 41];
        line[20] = 255;
        let blurred = gaussian_blur(Sample::new(line, (1, 41), 1).unwrap(), 2.);
        let (mut mass, mut spread) = (0., 0.);
        for (at, value) in blurred.pixels().iter().enumerate() {
            mass += f64::from(*value);
            spread += f64::from(*value) * (at as f64 - 20.).powi(2);
        }
        assert!((spread / mass - 4.).abs() < 0.3, "{}", spread / mass);
    }

    #[test]
    fn values_are_blurred_as_bytes_are() {
        for channels in [1, 3] {
            let bytes: Vec<u8> = (0..13 * 9 * channels)
                .map(|at| u8::try_from(at * 37 % 251).unwrap())
                .collect();
            let values = bytes.iter().map(|byte| f32::from(*byte) / 255.).collect();
            let small = Sample::new(bytes, (13, 9), channels).unwrap();
            let deep = Sample::of_values(values, (13, 9), channels).unwrap();
            for radius in [0.1, 0.7, 2., 6.] {
                let wanted = gaussian_blur(small.clone(), radius);
                let blurred = gaussian_blur(deep.clone(), radius);
                for (value, byte) in blurred.values().iter().zip(wanted.pixels()) {
                    // Bytes are rounded six times.
                    let difference = value * 255. - f32::from(*byte);
                    assert!(difference.abs() < 2.5, "{radius}: {difference}");
                }
            }
        }
        // Of 12 channels each is blurred alone.
        let twelve = (0..5 * 4 * 12).map(|at| (at % 12) as f32).collect();
        let twelve = gaussian_blur(Sample::of_values(twelve, (5, 4), 12).unwrap(), 1.5);
        for (at, value) in twelve.values().iter().enumerate() {
            assert!((value - (at % 12) as f32).abs() < 1e-4);
        }
    }
}
