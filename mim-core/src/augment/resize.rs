//! Antialiased resizing.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{InnerPixel, U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{CropBox, ImageOp, Sample, Size};
use crate::{Error, Result};

/// The filter of a resize; always widened when shrinking, as Pillow does.
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
/// Pixels outside the box have no influence, as when Pillow first crops and then resizes; bytes differ from
/// Pillow's by at most 1.
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
    let failed = |error: &dyn std::fmt::Display| {
        Error::shape(
            "resize",
            "a size of at least 1x1",
            format!("{height}x{width} from {crop:?}: {error}"),
            "check the sizes of the view plan",
        )
    };
    let [rows, cols] = [side(height), side(width)];
    if rows == 0 || cols == 0 || rows == u32::MAX || cols == u32::MAX {
        return Err(failed(&"empty or too large"));
    }
    let from = [crop.top, crop.left, crop.height, crop.width].map(side);
    let pixels = match sample.channels {
        1 => convolved::<U8>(&sample, from, [rows, cols], interpolation.filter()),
        _ => convolved::<U8x3>(&sample, from, [rows, cols], interpolation.filter()),
    };
    let pixels = pixels.map_err(|error| failed(&error))?;
    sample.replace(pixels, (height, width), crop.corners());
    Ok(sample)
}

/// The bytes of the box `[top, left, height, width]`, resized.
///
/// Two calls, since one would go down the columns first; bytes are clamped in between, so the order
/// shows (by up to 20 at hard edges), and Pillow's is rows first. The typed interface keeps the
/// resizer's code for other pixel types out of the build.
fn convolved<P: PixelTrait + InnerPixel<Component = u8>>(
    sample: &Sample,
    [top, left, box_height, box_width]: [u32; 4],
    [rows, cols]: [u32; 2],
    filter: FilterType,
) -> std::result::Result<Vec<u8>, Box<dyn std::error::Error>> {
    let (width, height) = (side(sample.width), side(sample.height));
    let whole = TypedImageRef::<P>::from_buffer(width, height, &sample.pixels)?;
    let source = TypedCroppedImage::from_ref(&whole, left, top, box_width, box_height)?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let mut resizer = Resizer::new();
    let mut narrowed = TypedImage::<P>::new(cols, box_height);
    resizer.resize_typed(&source, &mut narrowed, &options)?;
    let narrowed = TypedImageRef::new(cols, box_height, narrowed.pixels())?;
    let source = TypedCroppedImage::from_ref(&narrowed, 0, 0, cols, box_height)?;
    let mut pixels = vec![0; rows as usize * cols as usize * sample.channels];
    let mut target = TypedImage::<P>::from_buffer(cols, rows, &mut pixels)?;
    resizer.resize_typed(&source, &mut target, &options)?;
    Ok(pixels)
}

impl Interpolation {
    fn filter(self) -> FilterType {
        match self {
            Self::Bilinear => FilterType::Bilinear,
            Self::Bicubic => FilterType::CatmullRom,
            Self::Lanczos => FilterType::Lanczos3,
        }
    }
}

fn side(pixels: usize) -> u32 {
    u32::try_from(pixels).unwrap_or(u32::MAX)
}
