//! RandAugment.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::affine::{Affine, transform};
use super::levels::{adjust_sharpness, autocontrast, equalize, invert, posterize, solarize_add};
use super::{
    ImageOp, Sample, adjust_brightness, adjust_contrast, adjust_saturation, check_probability,
    happens, solarize,
};
use crate::{Error, Result};

/// The largest magnitude.
const LEVELS: f64 = 10.;

/// Several operations, drawn with replacement, each with a random strength around a magnitude.
///
/// RandAugment (Cubuk et al., 2020) as timm 0.3.2 names it `rand-m9-mstd0.5-inc1` (`data/auto_augment.py`). MAE and
/// BEiT fine-tune with it. Pixels from outside the image get ImageNet's mean colour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// Operations per image. Default 2.
    pub num_ops: usize,
    /// Mean magnitude, from 0 to 10. Default 9.
    pub magnitude: f64,
    /// Standard deviation of an operation's magnitude. Default 0.5.
    pub magnitude_std: f64,
    /// Probability that a drawn operation is applied. Default 0.5.
    pub p: f64,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self {
            num_ops: 2,
            magnitude: 9.,
            magnitude_std: 0.5,
            p: 0.5,
        }
    }
}

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

use Op::{
    AutoContrast, Brightness, Color, Contrast, Equalize, Invert, Posterize, Rotate, Sharpness,
    ShearX, ShearY, Solarize, SolarizeAdd, TranslateX, TranslateY,
};

const OPS: [Op; 15] = [
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
];

/// Red, green and blue of pixels from outside the image.
const FILL: [u8; 3] = [124, 116, 104];
/// The luma of [`FILL`].
const GREY_FILL: [u8; 1] = [117];

impl ImageOp for RandAugment {
    fn check(&self) -> Result<()> {
        check_probability("rand_augment", self.p)?;
        let (field, value) = if !(0. ..=LEVELS).contains(&self.magnitude) {
            ("magnitude", self.magnitude)
        } else if !(self.magnitude_std >= 0. && self.magnitude_std.is_finite()) {
            ("magnitude_std", self.magnitude_std)
        } else {
            return Ok(());
        };
        let why = "magnitudes go from 0 to 10, and their deviation is not negative";
        Err(Error::config(
            "rand_augment",
            field,
            value,
            why,
            "use for instance 9 and 0.5",
        ))
    }

    fn apply(&self, mut sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        for _ in 0..self.num_ops {
            let op = OPS[rng.random_range(0..OPS.len())];
            if !happens(rng, self.p) {
                continue;
            }
            let spread: f64 = rng.sample(StandardNormal);
            let level = (self.magnitude + self.magnitude_std * spread).clamp(0., LEVELS);
            let sign = if happens(rng, 0.5) { -1. } else { 1. };
            sample = op.apply(sample, level / LEVELS, sign);
        }
        Ok(sample)
    }
}

impl Op {
    /// The operation with `strength` from 0 to 1, in the direction of `sign` if it has two directions.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "levels of bytes, truncated as timm does"
    )]
    fn apply(self, sample: Sample, strength: f64, sign: f64) -> Sample {
        let (height, width) = sample.size();
        let fill: &[u8] = match sample.channels() {
            1 => &GREY_FILL,
            _ => &FILL,
        };
        let moved = |map: Affine, sample: Sample| transform(sample, map, fill);
        let factor = 1. + 0.9 * strength * sign;
        match self {
            AutoContrast => autocontrast(sample),
            Equalize => equalize(sample),
            Invert => invert(sample),
            Rotate => moved(
                Affine::rotation(30. * strength * sign, (height, width)),
                sample,
            ),
            Posterize => posterize(sample, 4 - (4. * strength) as u32),
            // A threshold of 256 changes nothing.
            Solarize => match u8::try_from(256 - (256. * strength) as u32) {
                Ok(threshold) => solarize(sample, threshold),
                Err(_) => sample,
            },
            SolarizeAdd => solarize_add(sample, (110. * strength) as u8),
            Color => adjust_saturation(sample, factor),
            Contrast => adjust_contrast(sample, factor),
            Brightness => adjust_brightness(sample, factor),
            Sharpness => adjust_sharpness(sample, factor),
            ShearX => moved(Affine::shear_x(0.3 * strength * sign), sample),
            ShearY => moved(Affine::shear_y(0.3 * strength * sign), sample),
            TranslateX => moved(
                Affine::translation(0., 0.45 * strength * sign * width as f64),
                sample,
            ),
            TranslateY => moved(
                Affine::translation(0.45 * strength * sign * height as f64, 0.),
                sample,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    fn photo(channels: usize) -> Sample {
        let bytes = (0..32 * 24 * channels)
            .map(|v| u8::try_from(v * 7 % 251).unwrap())
            .collect();
        Sample::new(bytes, (32, 24), channels).unwrap()
    }

    #[test]
    fn every_operation_keeps_the_size_and_most_change_the_image() {
        for channels in [1, 3] {
            for op in OPS {
                let changed = op.apply(photo(channels), 0.9, 1.);
                assert_eq!((changed.size(), changed.channels()), ((32, 24), channels));
                let grey = channels == 1 && op == Color;
                assert_eq!(changed == photo(channels), grey, "{op:?} {channels}");
            }
        }
    }

    #[test]
    fn strengths_are_those_of_the_release() {
        let image = Sample::new(vec![27, 26, 128], (1, 3), 1).unwrap();
        // 256 - int(0.9 * 256) = 26, int(0.9 * 110) = 99, 4 - int(3.6) = 1 bit.
        assert_eq!(
            Solarize.apply(image.clone(), 0.9, 1.).pixels(),
            [228, 229, 127]
        );
        assert_eq!(
            Solarize.apply(image.clone(), 0., 1.).pixels(),
            image.pixels()
        );
        assert_eq!(
            SolarizeAdd.apply(image.clone(), 0.9, 1.).pixels(),
            [126, 125, 128]
        );
        assert_eq!(Posterize.apply(image, 0.9, 1.).pixels(), [0, 0, 128]);
    }

    #[test]
    fn half_of_the_draws_leave_the_image_alone() {
        let one = RandAugment {
            num_ops: 1,
            ..RandAugment::default()
        };
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        let same = (0..400)
            .filter(|_| one.apply(photo(3), &mut rng).unwrap() == photo(3))
            .count();
        assert!((150..260).contains(&same), "{same}");
    }
}
