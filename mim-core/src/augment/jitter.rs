//! Brightness, contrast, saturation and hue.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::color::{luma, luma_sum};
use super::{ImageOp, Sample, check_probability, happens, offset, uniform};
use crate::simd::{PixelMap, map_pixels, simd_dispatch, whole_f32, whole_f64};
use crate::{Error, Result};

/// Changes brightness, contrast, saturation and hue by random amounts, in random order.
///
/// The first three draw a factor from `[max(0, 1 - x), 1 + x]`; hue draws a shift from `[-hue, hue]`. 0 leaves a
/// property alone. It is torchvision's operation of the same name inside `RandomApply(p)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColorJitter {
    /// Spread of the brightness factor.
    pub brightness: f64,
    /// Spread of the contrast factor.
    pub contrast: f64,
    /// Spread of the saturation factor.
    pub saturation: f64,
    /// Spread of the hue shift, as a fraction of the colour circle, at most 0.5.
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

/// `from + factor * (to - from)`, clamped to a byte and truncated as Pillow does.
#[inline(always)]
pub(super) fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let (from, to) = (f32::from(from), f32::from(to));
    whole_f32((from + factor * (to - from)).clamp(0., 255.))
}

simd_dispatch! {
    /// Blends every value with `base`.
    fn blend_with<'a>(pixels: &'a mut [u8], base: u8, factor: f32) {
        for value in pixels {
            *value = blend(base, *value, factor);
        }
    }
}

/// Scales every value by `factor`: 0 is black, 1 the image.
#[expect(clippy::cast_possible_truncation, reason = "Pillow blends in f32")]
pub fn adjust_brightness(mut sample: Sample, factor: f64) -> Sample {
    blend_with(&mut sample.pixels, 0, factor as f32);
    sample
}

/// Spreads values around the image's mean luma by `factor`: 0 is plain grey, 1 the image.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the mean of bytes is a byte, and Pillow blends in f32"
)]
pub fn adjust_contrast(mut sample: Sample, factor: f64) -> Sample {
    let pixels = (sample.height * sample.width) as u64;
    let sum: u64 = if sample.channels == 3 {
        luma_sum(&sample.pixels)
    } else {
        sample.pixels.iter().map(|grey| u64::from(*grey)).sum()
    };
    let mean = (2 * sum + pixels) / (2 * pixels);
    blend_with(&mut sample.pixels, mean as u8, factor as f32);
    sample
}

struct Saturation(f32);

impl PixelMap for Saturation {
    #[inline(always)]
    fn map(&self, pixel: [u8; 3]) -> [u8; 3] {
        let (grey, [red, green, blue]) = (luma(pixel), pixel);
        let Self(factor) = *self;
        [
            blend(grey, red, factor),
            blend(grey, green, factor),
            blend(grey, blue, factor),
        ]
    }
}

simd_dispatch! {
    fn saturate<'a>(pixels: &'a mut [u8], factor: f32) {
        map_pixels(pixels, &Saturation(factor));
    }
}

/// Moves colours away from their luma by `factor`: 0 is grey, 1 the image. Grey images stay as they are.
#[expect(clippy::cast_possible_truncation, reason = "Pillow blends in f32")]
pub fn adjust_saturation(mut sample: Sample, factor: f64) -> Sample {
    if sample.channels == 3 {
        saturate(&mut sample.pixels, factor as f32);
    }
    sample
}

/// A hue shift, in 256ths of the colour circle.
struct Turn(u8);

impl PixelMap for Turn {
    #[inline(always)]
    fn map(&self, pixel: [u8; 3]) -> [u8; 3] {
        let [hue, saturation, value] = hsv(pixel);
        rgb([hue.wrapping_add(self.0), saturation, value])
    }
}

simd_dispatch! {
    fn turn_hue<'a>(pixels: &'a mut [u8], steps: u8) {
        map_pixels(pixels, &Turn(steps));
    }
}

/// Shifts the hue by `turn`, a fraction of the colour circle in `[-0.5, 0.5]`. The circle has 256 steps; the shift is
/// truncated towards 0. Grey images stay as they are.
///
/// Hue and saturation pass through bytes, as in Pillow's mode `HSV`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a turn wraps around the byte, as torchvision's"
)]
pub fn adjust_hue(mut sample: Sample, turn: f64) -> Sample {
    if sample.channels == 3 {
        turn_hue(&mut sample.pixels, (turn * 255.) as i32 as u8);
    }
    sample
}

/// Hue (255 is the whole circle), saturation and value as bytes, both fractions truncated. It computes in Pillow's
/// precision, whose rounding shows in the bytes.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "Pillow rounds to f32")]
fn hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let value = red.max(green).max(blue);
    let least = red.min(green).min(blue);
    let spread = f32::from(value) - f32::from(least);
    // Greys divide 0 by 1.
    let share = |channel: u8| (f32::from(value) - f32::from(channel)) / spread.max(1.);
    let (r, g, b) = (share(red), share(green), share(blue));
    let sixth = if red == value {
        b - g
    } else if green == value {
        (2. + f64::from(r) - f64::from(b)) as f32
    } else {
        (4. + f64::from(g) - f64::from(r)) as f32
    };
    let hue = f64::from(sixth) / 6. + 1.;
    let hue = if hue >= 1. { hue - 1. } else { hue } as f32;
    let saturation = spread / f32::from(value.max(1));
    [
        whole_f64(f64::from(hue) * 255.),
        whole_f64(f64::from(saturation) * 255.),
        value,
    ]
}

/// The inverse of [`hsv`], rounded.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "Pillow rounds to f32")]
fn rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    let sixths = f64::from(hue) * 6. / 255.;
    let fraction = f64::from((sixths - sixths.floor()) as f32);
    let saturation = f64::from((f64::from(saturation) / 255.) as f32);
    let full = f64::from(value);
    let low = whole_f64(full * (1. - saturation) + 0.5);
    let falling = whole_f64(full * (1. - saturation * fraction) + 0.5);
    let rising = whole_f64(full * (1. - saturation * (1. - fraction)) + 0.5);
    // Selections instead of a `match`, whose branches cannot be vectorised. Sector 6 is sector 0 again.
    let sector = whole_f64(sixths);
    let sector = if sector == 6 { 0 } else { sector };
    let shade = |peaks: [u8; 2], falls: u8, rises: u8| {
        let slope = if sector == falls { falling } else { low };
        let slope = if sector == rises { rising } else { slope };
        if sector == peaks[0] || sector == peaks[1] {
            value
        } else {
            slope
        }
    };
    [
        shade([5, 0], 1, 4),
        shade([1, 2], 3, 0),
        shade([3, 4], 5, 2),
    ]
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

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "casts are what Pillow does"
    )]
    /// Pillow's conversion, turn and conversion back, branch by branch.
    fn pillows_turn([red, green, blue]: [u8; 3], steps: u8) -> [u8; 3] {
        let (value, least) = (red.max(green).max(blue), red.min(green).min(blue));
        if value == least {
            return [value; 3];
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
        let hue = ((f64::from(hue) * 255.) as u8).wrapping_add(steps);
        let saturation = (f64::from(spread / f32::from(value)) * 255.) as u8;
        let sixths = f64::from(hue) * 6. / 255.;
        let fraction = f64::from((sixths - sixths.floor()) as f32);
        let saturation = f64::from((f64::from(saturation) / 255.) as f32);
        let shade = |share: f64| (f64::from(value) * (1. - saturation * share)).round() as u8;
        let (low, falling, rising) = (shade(1.), shade(fraction), shade(1. - fraction));
        match sixths.floor() as u8 % 6 {
            0 => [value, rising, low],
            1 => [falling, value, low],
            2 => [low, value, rising],
            3 => [low, falling, value],
            4 => [rising, low, value],
            _ => [value, low, falling],
        }
    }

    #[test]
    fn hues_are_pillows_over_the_colour_cube() {
        let every = |step: usize| (0..=255u8).step_by(step);
        let cube: Vec<u8> = every(1)
            .flat_map(|red| {
                every(3).flat_map(move |green| every(5).map(move |blue| [red, green, blue]))
            })
            .flatten()
            .collect();
        for steps in [0, 1, 85, 254] {
            let mut turned = cube.clone();
            turn_hue(&mut turned, steps);
            let expected = cube
                .as_chunks()
                .0
                .iter()
                .flat_map(|pixel| pillows_turn(*pixel, steps));
            assert!(turned.into_iter().eq(expected), "{steps}");
        }
    }

    #[test]
    fn blends_saturate_at_both_ends() {
        assert_eq!(blend(0, 200, 1.5), 255);
        assert_eq!(blend(100, 10, 1.5), 0);
        assert_eq!(blend(100, 255, 0.), 100);
        assert_eq!(blend(0, 255, 0.999), 254);
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
