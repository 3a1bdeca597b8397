//! Greyscale, number of channels, and solarization.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{ImageOp, Sample, check_probability, happens};
use crate::simd::{LANES, PixelMap, channels, map_pixels, simd_dispatch};
use crate::{Error, Result};

/// Makes the image grey and keeps its number of channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grayscale {
    /// Probability, 0.2 by default.
    pub p: f64,
    /// Weights of red, green and blue. They are divided by their sum, and the result is truncated. Without them (the
    /// default) it is Pillow's luma, which is rounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<[f64; 3]>,
}

impl Default for Grayscale {
    fn default() -> Self {
        Self {
            p: 0.2,
            weights: None,
        }
    }
}

impl ImageOp for Grayscale {
    fn check(&self) -> Result<()> {
        check_probability("grayscale", self.p)?;
        match self.weights {
            Some(weights) if !is_mean(weights) => Err(Error::config(
                "grayscale",
                "weights",
                format!("{weights:?}"),
                "they must not be negative, and not all zero",
                "leave them out for the usual luma",
            )),
            _ => Ok(()),
        }
    }

    fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        if !happens(rng, self.p) {
            return Ok(sample);
        }
        Ok(match self.weights {
            Some(weights) => weighted_grayscale(sample, weights),
            None => grayscale(sample),
        })
    }
}

/// Whether `weights` make a mean.
fn is_mean(weights: [f64; 3]) -> bool {
    let sum: f64 = weights.iter().sum();
    weights.iter().all(|weight| *weight >= 0.) && sum > 0. && sum.is_finite()
}

/// Sets every channel to the weighted mean of red, green and blue, truncated to a byte.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean of bytes, and truncation is wanted"
)]
pub fn weighted_grayscale(mut sample: Sample, weights: [f64; 3]) -> Sample {
    let sum: f64 = weights.iter().sum();
    if sample.channels == 3 {
        for pixel in sample.pixels.as_chunks_mut::<3>().0 {
            let values = pixel.iter().zip(weights);
            let mean: f64 = values
                .map(|(value, weight)| f64::from(*value) * weight / sum)
                .sum();
            *pixel = [mean as u8; 3];
        }
    }
    sample
}

/// Sets every channel to the luma of ITU-R 601.
pub fn grayscale(mut sample: Sample) -> Sample {
    if sample.channels == 3 {
        to_luma(&mut sample.pixels);
    }
    sample
}

struct Luma;

impl PixelMap for Luma {
    #[inline(always)]
    fn map(&self, pixel: [u8; 3]) -> [u8; 3] {
        [luma(pixel); 3]
    }
}

simd_dispatch! {
    fn to_luma<'a>(pixels: &'a mut [u8]) {
        map_pixels(pixels, &Luma);
    }
}

simd_dispatch! {
    /// The sum of the lumas of RGB pixels.
    pub(super) fn luma_sum<'a>(pixels: &'a [u8]) -> u64 {
        let (blocks, rest) = pixels.as_chunks::<3>().0.as_chunks::<LANES>();
        let mut sum: u64 = rest.iter().map(|pixel| u64::from(luma(*pixel))).sum();
        for block in blocks {
            let [red, green, blue] = channels(block);
            let mut part = 0;
            for lane in 0..LANES {
                part += u32::from(luma([red[lane], green[lane], blue[lane]]));
            }
            sum += u64::from(part);
        }
        sum
    }
}

/// Luma of ITU-R 601 with weights in 1/65536, rounded, as Pillow's mode `L`.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the weights sum to 65536, so the result is at most 255"
)]
pub(super) fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum = 19595 * u32::from(red) + 38470 * u32::from(green) + 7471 * u32::from(blue);
    ((sum + 0x8000) >> 16) as u8
}

/// Changes the number of channels: RGB becomes its luma, grey is repeated. Images with any other number of channels
/// must already have the number asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToChannels {
    /// 3 by default.
    pub channels: usize,
}

impl Default for ToChannels {
    fn default() -> Self {
        Self { channels: 3 }
    }
}

impl ImageOp for ToChannels {
    fn check(&self) -> Result<()> {
        if self.channels > 0 {
            return Ok(());
        }
        let why = "images have at least one channel";
        let fix = "choose the number of the encoder's channels";
        Err(Error::config("to_channels", "channels", 0, why, fix))
    }

    fn apply(&self, mut sample: Sample, _rng: &mut dyn Rng) -> Result<Sample> {
        if sample.channels == self.channels {
            return Ok(sample);
        }
        if sample.is_deep() || !matches!(self.channels, 1 | 3) {
            let (channels, value) = (sample.channels, self.channels);
            let why = format!(
                "the image has {channels}, and only grey and RGB images of bytes can be changed"
            );
            let fix = format!("let the encoder take them: encoder.in_channels = {channels}");
            return Err(Error::config("to_channels", "channels", value, why, fix));
        }
        sample.pixels = if self.channels == 1 {
            let pixels = sample.pixels.as_chunks::<3>().0;
            pixels.iter().map(|pixel| luma(*pixel)).collect()
        } else {
            sample.pixels.iter().flat_map(|grey| [*grey; 3]).collect()
        };
        sample.channels = self.channels;
        Ok(sample)
    }
}

/// Inverts values at or above a threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Solarize {
    /// The lowest value that is inverted. 128 by default.
    pub threshold: u8,
    /// Probability, 0.2 by default.
    pub p: f64,
}

impl Default for Solarize {
    fn default() -> Self {
        Self {
            threshold: 128,
            p: 0.2,
        }
    }
}

impl ImageOp for Solarize {
    fn check(&self) -> Result<()> {
        check_probability("solarize", self.p)
    }

    fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        Ok(if happens(rng, self.p) {
            solarize(sample, self.threshold)
        } else {
            sample
        })
    }
}

/// Inverts every value of at least `threshold`.
pub fn solarize(mut sample: Sample, threshold: u8) -> Sample {
    for value in &mut sample.pixels {
        if *value >= threshold {
            *value = 255 - *value;
        }
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_lumas_take_every_pixel() {
        let bytes: Vec<u8> = (0..=255).rev().cycle().take(3 * 150).collect();
        let pixels = bytes.as_chunks::<3>().0;
        let sum: u64 = pixels.iter().map(|pixel| u64::from(luma(*pixel))).sum();
        assert_eq!(luma_sum(&bytes), sum);
    }

    #[test]
    fn channels_go_to_grey_and_back() {
        let mut rng = crate::rng::stream(0, crate::Purpose::Augment, [0, 0]);
        let mut to = |sample, channels| ToChannels { channels }.apply(sample, &mut rng).unwrap();
        let colour = Sample::new(vec![255, 0, 0, 0, 0, 255], (1, 2), 3).unwrap();
        let grey = to(colour.clone(), 1);
        assert_eq!((grey.pixels(), grey.channels()), (&[76, 29][..], 1));
        assert_eq!(to(grey, 3), grayscale(colour));
    }
}
