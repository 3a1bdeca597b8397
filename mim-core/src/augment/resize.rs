//! Antialiased resizing.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::convolve::{convolve, convolve_values};
use super::{CropBox, ImageOp, Sample, Size};
use crate::{Error, Result};

/// The filter of a resize. It is always widened when shrinking, as in Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Triangle filter.
    Bilinear,
    /// Cubic filter with a = -0.5.
    #[default]
    Bicubic,
    /// Windowed sinc of three lobes.
    Lanczos,
}

/// Resizes the whole image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resize {
    /// The shorter side (default 256), or `[height, width]`.
    pub size: Size,
    /// The filter, bicubic by default.
    pub interpolation: Interpolation,
}

impl Default for Resize {
    fn default() -> Self {
        Self {
            size: Size::Side(256),
            interpolation: Interpolation::Bicubic,
        }
    }
}

impl ImageOp for Resize {
    fn check(&self) -> Result<()> {
        self.size.check("resize")
    }

    fn apply(&self, sample: Sample, _rng: &mut dyn Rng) -> Result<Sample> {
        let whole = CropBox::whole(sample.size());
        let size = self.size.shorter_side(sample.size());
        resize(sample, whole, size, self.interpolation)
    }
}

/// Cuts `crop` out of the image and resizes it to `size` = (height, width).
///
/// Pixels outside the box have no influence, as when Pillow first crops and then resizes. The bytes are Pillow's.
///
/// # Errors
///
/// [`Error::Shape`] if the box or the size is empty or the box leaves the image.
pub fn resize(
    mut sample: Sample,
    crop: CropBox,
    (height, width): (usize, usize),
    interpolation: Interpolation,
) -> Result<Sample> {
    crop.check(sample.size())?;
    if (height, width) == sample.size() && crop == CropBox::whole(sample.size()) {
        return Ok(sample);
    }
    if height == 0 || width == 0 {
        return Err(Error::shape(
            "resize",
            "a size of at least 1x1",
            format!("{height}x{width} from {crop:?}"),
            "check the sizes of the view plan",
        ));
    }
    let from = [crop.top, crop.left, crop.height, crop.width];
    let (stride, channels) = (sample.width * sample.channels, sample.channels);
    if sample.is_deep() {
        let values = (&sample.values[..], stride, channels);
        let values = convolve_values(values, from, [height, width], interpolation);
        sample.replace_values(values, (height, width), crop.corners());
        return Ok(sample);
    }
    let pixels = (&sample.pixels[..], stride, channels);
    let pixels = convolve(pixels, from, [height, width], interpolation);
    sample.replace(pixels, (height, width), crop.corners());
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_resized_as_bytes_are() {
        let bytes: Vec<u8> = (0..9 * 14 * 3).map(|at| (at * 37 % 251) as u8).collect();
        let values = bytes.iter().map(|byte| f32::from(*byte) / 255.).collect();
        let small = Sample::new(bytes, (9, 14), 3).unwrap();
        let deep = Sample::of_values(values, (9, 14), 3).unwrap();
        let crop = CropBox {
            top: 1,
            left: 2,
            height: 7,
            width: 11,
        };
        for (size, filter) in [
            ((4, 5), Interpolation::Bicubic),
            ((20, 11), Interpolation::Bilinear),
            ((7, 30), Interpolation::Lanczos),
        ] {
            let small = resize(small.clone(), crop, size, filter).unwrap();
            let deep = resize(deep.clone(), crop, size, filter).unwrap();
            assert_eq!((small.size(), small.crop()), (deep.size(), deep.crop()));
            for (byte, value) in small.pixels().iter().zip(deep.values()) {
                let difference = (f32::from(*byte) - value.clamp(0., 1.) * 255.).abs();
                // Bytes are rounded after each direction.
                assert!(difference < 1.5, "{size:?}: {byte} {value}");
            }
        }
    }
}
