//! Brightness, contrast, saturation and hue.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::color::luma;
use super::{ImageOp, Sample, check_probability, happens, offset, uniform};
use crate::{Error, Result};

/// Changes brightness, contrast, saturation and hue by random amounts, in random order.
///
/// The first three draw a factor from `[max(0, 1 - x), 1 + x]`, hue a turn from `[-hue, hue]`; 0 leaves the
/// property alone. torchvision's operation of the same name inside `RandomApply(p)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColorJitter {
    /// Spread of the brightness factor.
    pub brightness: f64,
    /// Spread of the contrast factor.
    pub contrast: f64,
    /// Spread of the saturation factor.
    pub saturation: f64,
    /// Spread of the hue in turns, at most 0.5.
    pub hue: f64,
    /// Probability that the image is changed at all.
    pub p: f64,
}

impl Default for ColorJitter {
    /// iBOT's and SIM's jitter.
    fn default() -> Self {
        Self {
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.2,
            hue: 0.1,
            p: 0.8,
        }
    }
}

impl ImageOp for ColorJitter {
    fn check(&self) -> Result<()> {
        check_probability("color_jitter", self.p)?;
        for (field, value, most) in [
            ("brightness", self.brightness, 100.),
            ("contrast", self.contrast, 100.),
            ("saturation", self.saturation, 100.),
            ("hue", self.hue, 0.5),
        ] {
            if !(0. ..=most).contains(&value) {
                return Err(Error::config(
                    "color_jitter",
                    field,
                    value,
                    format!("it is a spread from 0 to {most}"),
                    "choose a smaller positive number",
                ));
            }
        }
        Ok(())
    }

    fn apply(&self, mut sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        if !happens(rng, self.p) {
            return Ok(sample);
        }
        let mut order = [0, 1, 2, 3];
        for last in (1..order.len()).rev() {
            order.swap(last, offset(rng, last));
        }
        let mut factor = |spread: f64| uniform(rng, [(1. - spread).max(0.), 1. + spread]);
        let [brightness, contrast, saturation] =
            [self.brightness, self.contrast, self.saturation].map(&mut factor);
        let turn = uniform(rng, [-self.hue, self.hue]);
        for property in order {
            sample = match property {
                0 if self.brightness > 0. => adjust_brightness(sample, brightness),
                1 if self.contrast > 0. => adjust_contrast(sample, contrast),
                2 if self.saturation > 0. => adjust_saturation(sample, saturation),
                3 if self.hue > 0. => adjust_hue(sample, turn),
                _ => sample,
            };
        }
        Ok(sample)
    }
}

/// `from + factor * (to - from)`, cut to a byte towards 0 as Pillow does.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float casts saturate, which is the clamping wanted"
)]
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))) as u8
}

/// Blends every value with `base`.
#[expect(clippy::cast_possible_truncation, reason = "Pillow blends in f32")]
fn blend_with(mut sample: Sample, base: u8, factor: f64) -> Sample {
    let table: [u8; 256] = std::array::from_fn(|value| blend(base, value as u8, factor as f32));
    for value in &mut sample.pixels {
        *value = table[usize::from(*value)];
    }
    sample
}

/// Scales every value by `factor`: 0 is black, 1 the image.
pub fn adjust_brightness(sample: Sample, factor: f64) -> Sample {
    blend_with(sample, 0, factor)
}

/// Spreads values around the image's mean luma by `factor`: 0 is plain grey, 1 the image.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the mean of bytes is a byte"
)]
pub fn adjust_contrast(sample: Sample, factor: f64) -> Sample {
    let pixels = (sample.height * sample.width) as u64;
    let sum: u64 = if sample.channels == 3 {
        let pixels = sample.pixels.as_chunks::<3>().0;
        pixels.iter().map(|pixel| u64::from(luma(*pixel))).sum()
    } else {
        sample.pixels.iter().map(|grey| u64::from(*grey)).sum()
    };
    let mean = (2 * sum + pixels) / (2 * pixels);
    blend_with(sample, mean as u8, factor)
}

/// Moves colours away from their luma by `factor`: 0 is grey, 1 the image. Grey images stay as they are.
#[expect(clippy::cast_possible_truncation, reason = "Pillow blends in f32")]
pub fn adjust_saturation(mut sample: Sample, factor: f64) -> Sample {
    if sample.channels == 3 {
        for pixel in sample.pixels.as_chunks_mut::<3>().0 {
            let grey = luma(*pixel);
            *pixel = pixel.map(|value| blend(grey, value, factor as f32));
        }
    }
    sample
}

/// Turns the hue by `turn` in `[-0.5, 0.5]` of a circle of 256 steps, cut towards 0. Grey images stay as they are.
///
/// Hue and saturation are rounded to bytes on the way, as in Pillow's mode `HSV`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a turn wraps around the byte, as torchvision's"
)]
pub fn adjust_hue(mut sample: Sample, turn: f64) -> Sample {
    if sample.channels == 3 {
        let steps = (turn * 255.) as i32 as u8;
        for pixel in sample.pixels.as_chunks_mut::<3>().0 {
            let [hue, saturation, value] = hsv(*pixel);
            *pixel = rgb([hue.wrapping_add(steps), saturation, value]);
        }
    }
    sample
}

/// Hue (a turn is 255), saturation and value as bytes, both fractions cut.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "fractions of 255 fit a byte"
)]
fn hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let value = red.max(green).max(blue);
    let least = red.min(green).min(blue);
    if value == least {
        return [0, 0, value];
    }
    let spread = f32::from(value - least);
    let [r, g, b] = [red, green, blue].map(|channel| f32::from(value - channel) / spread);
    let sixth = if red == value {
        b - g
    } else if green == value {
        (2. + f64::from(r) - f64::from(b)) as f32
    } else {
        (4. + f64::from(g) - f64::from(r)) as f32
    };
    let hue = ((f64::from(sixth) / 6. + 1.) % 1.) as f32;
    let saturation = spread / f32::from(value);
    [
        (f64::from(hue) * 255.) as u8,
        (f64::from(saturation) * 255.) as u8,
        value,
    ]
}

/// The inverse of [`hsv`], rounded.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the products are at most `value`"
)]
fn rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let sixths = f64::from(hue) * 6. / 255.;
    let sector = sixths.floor();
    let fraction = f64::from((sixths - sector) as f32);
    let saturation = f64::from((f64::from(saturation) / 255.) as f32);
    let shade = |share: f64| (f64::from(value) * (1. - saturation * share)).round() as u8;
    let (low, falling, rising) = (shade(1.), shade(fraction), shade(1. - fraction));
    match sector as u8 % 6 {
        0 => [value, rising, low],
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    fn colour() -> Sample {
        Sample::new((0..48).map(|v| v * 5).collect(), (4, 4), 3).unwrap()
    }

    #[test]
    fn factors_of_one_and_no_turn_change_nothing() {
        assert_eq!(adjust_brightness(colour(), 1.), colour());
        assert_eq!(adjust_contrast(colour(), 1.), colour());
        assert_eq!(adjust_saturation(colour(), 1.), colour());
    }

    #[test]
    fn a_third_of_a_turn_moves_pure_red_to_green() {
        let red = Sample::new(vec![255, 0, 0], (1, 1), 3).unwrap();
        assert_eq!(adjust_hue(red, 1. / 3.).pixels(), [0, 255, 0]);
    }

    #[test]
    fn properties_are_changed_in_every_order() {
        let jitter = ColorJitter {
            p: 1.,
            ..ColorJitter::default()
        };
        let mut results = vec![];
        for draw in 0..20 {
            let mut rng = stream(0, Purpose::Augment, [0, draw]);
            results.push(jitter.apply(colour(), &mut rng).unwrap().pixels().to_vec());
        }
        results.sort();
        results.dedup();
        assert!(results.len() > 15);
        let never = ColorJitter { p: 0., ..jitter };
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        assert_eq!(never.apply(colour(), &mut rng).unwrap(), colour());
    }
}
