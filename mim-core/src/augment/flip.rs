//! Mirroring.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{ImageOp, Sample, check_probability, happens};
use crate::Result;

/// Mirrors the image left to right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HorizontalFlip {
    /// Probability, 0.5 by default.
    pub p: f64,
}

impl Default for HorizontalFlip {
    fn default() -> Self {
        Self { p: 0.5 }
    }
}

impl ImageOp for HorizontalFlip {
    fn check(&self) -> Result<()> {
        check_probability("horizontal_flip", self.p)
    }

    fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        Ok(if happens(rng, self.p) {
            flipped(sample)
        } else {
            sample
        })
    }
}

fn flipped(mut sample: Sample) -> Sample {
    let (width, channels) = (sample.width, sample.channels);
    for row in sample.pixels.chunks_exact_mut(width * channels) {
        match channels {
            3 => row.as_chunks_mut::<3>().0.reverse(),
            _ => row.reverse(),
        }
    }
    if sample.is_deep() {
        for row in sample.values.chunks_exact_mut(width * channels) {
            // Reversing a row also reversed the channels of each pixel.
            row.reverse();
            row.chunks_exact_mut(channels).for_each(<[f32]>::reverse);
        }
    }
    let crop = &mut sample.crop;
    crop.left = crop.source_width as f32 - crop.left - crop.width;
    crop.flipped = !crop.flipped;
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::CropBox;
    use crate::augment::{Interpolation, resize};

    #[test]
    fn mirrors_pixels_and_geometry() {
        let sample = Sample::new((0..15).collect(), (1, 5), 3).unwrap();
        let crop = CropBox {
            top: 0,
            left: 1,
            height: 1,
            width: 3,
        };
        let cut = resize(sample, crop, (1, 3), Interpolation::Bicubic).unwrap();
        let mirrored = flipped(cut.clone());
        assert_eq!(mirrored.pixels(), [9, 10, 11, 6, 7, 8, 3, 4, 5]);
        assert_eq!((mirrored.crop().left, mirrored.crop().flipped), (1., true));
        assert_eq!(flipped(mirrored), cut);
    }

    #[test]
    fn the_frame_of_a_crop_is_mirrored_too() {
        let sample = Sample::new((0..5).collect(), (1, 5), 1).unwrap();
        let crop = CropBox {
            top: 0,
            left: 0,
            height: 1,
            width: 2,
        };
        let mirrored = flipped(resize(sample, crop, (1, 2), Interpolation::Bicubic).unwrap());
        assert_eq!(mirrored.pixels(), [1, 0]);
        assert_eq!((mirrored.crop().left, mirrored.crop().width), (3., 2.));
    }
}
