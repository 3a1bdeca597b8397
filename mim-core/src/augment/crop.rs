//! Crops, and the borders some of them need.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::pad::padded;
use super::{ImageOp, Interpolation, Sample, Size, check_range, offset, resize, uniform};
use crate::{Error, Result};

/// A box of whole pixels inside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl CropBox {
    /// A whole image.
    pub fn whole((height, width): (usize, usize)) -> Self {
        Self {
            top: 0,
            left: 0,
            height,
            width,
        }
    }

    /// Checks that the box is not empty and lies inside an image of `(height, width)`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] otherwise.
    pub fn check(&self, (height, width): (usize, usize)) -> Result<()> {
        let fits = |first: usize, side: usize, whole: usize| {
            side > 0 && first.checked_add(side).is_some_and(|end| end <= whole)
        };
        if fits(self.top, self.height, height) && fits(self.left, self.width, width) {
            return Ok(());
        }
        Err(Error::shape(
            "crop",
            format!("a box inside {height}x{width} pixels"),
            self,
            "choose a smaller crop, or resize or pad first",
        ))
    }

    /// Top, left, height and width.
    pub(super) fn corners(&self) -> [f32; 4] {
        [self.top, self.left, self.height, self.width].map(|side| side as f32)
    }

    /// The box of `(height, width)` in the middle of an image. Half pixels are rounded to even.
    pub(super) fn centred((height, width): (usize, usize), image: (usize, usize)) -> Self {
        let margin = |whole: usize, side: usize| rounded((whole - side) as f64 / 2.);
        Self {
            top: margin(image.0, height),
            left: margin(image.1, width),
            height,
            width,
        }
    }

    /// The pixels inside the box.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the box does not lie inside the image.
    pub fn cut(&self, mut sample: Sample) -> Result<Sample> {
        self.check(sample.size())?;
        let (size, corners) = ((self.height, self.width), self.corners());
        let (stride, channels) = (sample.width * sample.channels, sample.channels);
        match sample.is_deep() {
            true => {
                let values = self.inside(&sample.values, stride, channels);
                sample.replace_values(values, size, corners);
            }
            false => {
                let pixels = self.inside(&sample.pixels, stride, channels);
                sample.replace(pixels, size, corners);
            }
        }
        Ok(sample)
    }

    /// The part of the rows of an image that is inside the box.
    fn inside<T: Copy>(&self, rows: &[T], stride: usize, channels: usize) -> Vec<T> {
        let columns = self.left * channels..(self.left + self.width) * channels;
        let rows = rows.chunks_exact(stride).skip(self.top);
        let rows = rows.take(self.height);
        rows.flat_map(|row| &row[columns.clone()])
            .copied()
            .collect()
    }
}

/// Rounds `value` to the nearest whole number, halves to even as Python's `round` does.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "callers pass sides of images"
)]
fn rounded(value: f64) -> usize {
    value.round_ties_even() as usize
}

/// Height and width of a box of `area` pixels with `aspect` = width / height.
fn box_of(area: f64, aspect: f64) -> (usize, usize) {
    (
        rounded((area / aspect).sqrt()),
        rounded((area * aspect).sqrt()),
    )
}

/// A box of random area and aspect ratio at a random position, resized: the crop of nearly every pre-training recipe.
///
/// Szegedy et al., CVPR 2015; follows the conventions of torchvision's operation of the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// Size of the result.
    pub size: Size,
    /// Range of the box's share of the image area.
    pub scale: [f64; 2],
    /// Range of the box's width / height; its logarithm is uniform.
    pub ratio: [f64; 2],
    /// The filter.
    pub interpolation: Interpolation,
}

impl Default for RandomResizedCrop {
    /// MAE's pre-training crop.
    fn default() -> Self {
        Self {
            size: Size::default(),
            scale: [0.2, 1.],
            ratio: [3. / 4., 4. / 3.],
            interpolation: Interpolation::Bicubic,
        }
    }
}

impl RandomResizedCrop {
    /// Draws a box for an image of `(height, width)`: ten tries, then the largest allowed box in the middle.
    pub fn crop_box(&self, (height, width): (usize, usize), rng: &mut dyn Rng) -> CropBox {
        let area = (height * width) as f64;
        for _ in 0..10 {
            let target = area * uniform(rng, self.scale);
            let aspect = uniform(rng, self.ratio.map(f64::ln)).exp();
            let (box_height, box_width) = box_of(target, aspect);
            if (1..=height).contains(&box_height) && (1..=width).contains(&box_width) {
                return CropBox {
                    top: offset(rng, height - box_height),
                    left: offset(rng, width - box_width),
                    height: box_height,
                    width: box_width,
                };
            }
        }
        self.fallback((height, width))
    }

    /// The largest box in the middle whose aspect ratio is in range.
    fn fallback(&self, (height, width): (usize, usize)) -> CropBox {
        let aspect = width as f64 / height as f64;
        let [low, high] = self.ratio;
        let size = if aspect < low {
            (rounded(width as f64 / low).clamp(1, height), width)
        } else if aspect > high {
            (height, rounded(height as f64 * high).clamp(1, width))
        } else {
            (height, width)
        };
        CropBox {
            top: (height - size.0) / 2,
            left: (width - size.1) / 2,
            height: size.0,
            width: size.1,
        }
    }
}

impl ImageOp for RandomResizedCrop {
    fn check(&self) -> Result<()> {
        self.size.check("random_resized_crop")?;
        check_range(
            "random_resized_crop",
            "scale",
            self.scale,
            f64::MIN_POSITIVE,
        )?;
        check_range(
            "random_resized_crop",
            "ratio",
            self.ratio,
            f64::MIN_POSITIVE,
        )
    }

    fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        let crop = self.crop_box(sample.size(), rng);
        resize(sample, crop, self.size.square(), self.interpolation)
    }
}

/// A random box drawn once and clamped to the image, resized: MAE's linear-probing crop.
///
/// He et al., CVPR 2022, appendix A.1; facebookresearch/mae @ efb2a80, `util/crop.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClampedCrop {
    /// Size of the result.
    pub size: Size,
    /// Range of the box's share of the image area before clamping.
    pub scale: [f64; 2],
    /// Range of the box's width / height before clamping; its logarithm is uniform.
    pub ratio: [f64; 2],
    /// The filter.
    pub interpolation: Interpolation,
}

impl Default for ClampedCrop {
    fn default() -> Self {
        Self {
            size: Size::default(),
            scale: [0.08, 1.],
            ratio: [3. / 4., 4. / 3.],
            interpolation: Interpolation::Bicubic,
        }
    }
}

impl ClampedCrop {
    /// Draws a box for an image of `(height, width)`.
    pub fn crop_box(&self, (height, width): (usize, usize), rng: &mut dyn Rng) -> CropBox {
        let target = (height * width) as f64 * uniform(rng, self.scale);
        let aspect = uniform(rng, self.ratio.map(f64::ln)).exp();
        let (box_height, box_width) = box_of(target, aspect);
        let size = (box_height.clamp(1, height), box_width.clamp(1, width));
        CropBox {
            top: offset(rng, height - size.0),
            left: offset(rng, width - size.1),
            height: size.0,
            width: size.1,
        }
    }
}

impl ImageOp for ClampedCrop {
    fn check(&self) -> Result<()> {
        self.size.check("clamped_crop")?;
        check_range("clamped_crop", "scale", self.scale, f64::MIN_POSITIVE)?;
        check_range("clamped_crop", "ratio", self.ratio, f64::MIN_POSITIVE)
    }

    fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        let crop = self.crop_box(sample.size(), rng);
        resize(sample, crop, self.size.square(), self.interpolation)
    }
}

/// The middle of the image; a smaller image is padded with black, as torchvision does.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CenterCrop {
    /// Size of the result.
    pub size: Size,
}

impl ImageOp for CenterCrop {
    fn check(&self) -> Result<()> {
        self.size.check("center_crop")
    }

    fn apply(&self, sample: Sample, _rng: &mut dyn Rng) -> Result<Sample> {
        let (height, width) = self.size.square();
        let missing = (
            height.saturating_sub(sample.height),
            width.saturating_sub(sample.width),
        );
        let before = [missing.0 / 2, missing.1 / 2];
        let after = [missing.0.div_ceil(2), missing.1.div_ceil(2)];
        let sample = padded(sample, before, after, 0);
        CropBox::centred((height, width), sample.size()).cut(sample)
    }
}

/// A box of the image at a small random offset from its top left corner, not resized: CMAE's shifted views.
///
/// Huang et al., TPAMI 2023, Sec. 3.3. With `max_shift` 0 it is the top left corner itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PixelShift {
    /// Size of the result.
    pub size: Size,
    /// The largest offset. Rows and columns are drawn independently.
    pub max_shift: usize,
}

impl ImageOp for PixelShift {
    fn check(&self) -> Result<()> {
        self.size.check("pixel_shift")
    }

    fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        let (height, width) = self.size.square();
        let [top, left] = [(); 2].map(|()| offset(rng, self.max_shift));
        CropBox {
            top,
            left,
            height,
            width,
        }
        .cut(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pad;
    use super::*;
    use crate::rng::{Purpose, stream};
    use proptest::prelude::*;

    fn grey(height: usize, width: usize) -> Sample {
        let pixels = (0..height * width).map(|v| u8::try_from(v).unwrap());
        Sample::new(pixels.collect(), (height, width), 1).unwrap()
    }

    fn apply(op: &impl ImageOp, sample: Sample) -> Sample {
        op.apply(sample, &mut stream(0, Purpose::Augment, [0, 0]))
            .unwrap()
    }

    #[test]
    fn falls_back_to_the_middle_of_extreme_images() {
        let crop = RandomResizedCrop {
            scale: [1., 1.],
            ..RandomResizedCrop::default()
        };
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        let expect = |top, left, height, width| CropBox {
            top,
            left,
            height,
            width,
        };
        assert_eq!(crop.crop_box((10, 100), &mut rng), expect(0, 43, 10, 13));
        assert_eq!(crop.crop_box((100, 10), &mut rng), expect(43, 0, 13, 10));
        assert_eq!(crop.crop_box((1, 1), &mut rng), expect(0, 0, 1, 1));
    }

    #[test]
    fn clamped_crop_of_a_long_image_never_retries() {
        let crop = ClampedCrop {
            scale: [1., 1.],
            ratio: [1., 1.],
            ..ClampedCrop::default()
        };
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        let drawn = crop.crop_box((10, 90), &mut rng);
        assert_eq!((drawn.height, drawn.width), (10, 30));
    }

    #[test]
    fn centre_crop_rounds_halves_to_even_and_pads_with_black() {
        let middle = |height, width, size: usize| {
            apply(&CenterCrop { size: size.into() }, grey(height, width))
        };
        assert_eq!(middle(1, 5, 1).pixels(), [2]);
        // Margins 2.5 and 1.5 both round to 2, as Python's.
        let cut = middle(5, 6, 1);
        assert_eq!((cut.crop().top, cut.crop().left), (2., 2.));
        assert_eq!(middle(4, 4, 1).pixels(), [10]);
        let padded = middle(1, 2, 3);
        assert_eq!(padded.pixels(), [0, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!((padded.crop().top, padded.crop().left), (-1., 0.));
    }

    #[test]
    fn pad_surrounds_the_image() {
        let padded = apply(&Pad { pixels: 1, fill: 9 }, grey(1, 2));
        assert_eq!(padded.pixels(), [9, 9, 9, 9, 9, 0, 1, 9, 9, 9, 9, 9]);
        assert_eq!(padded.crop().height, 3.);
    }

    #[test]
    fn pixel_shift_stays_within_its_range_and_names_images_too_small() {
        let mut seen = [false; 3];
        for draw in 0..50 {
            let op = PixelShift {
                size: 2.into(),
                max_shift: 2,
            };
            let mut rng = stream(0, Purpose::Augment, [0, draw]);
            let shifted = op.apply(grey(4, 4), &mut rng).unwrap();
            seen[usize::from(shifted.pixels()[0] % 4)] = true;
        }
        assert_eq!(seen, [true; 3]);
        let op = PixelShift {
            size: 5.into(),
            max_shift: 0,
        };
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        let error = op.apply(grey(4, 4), &mut rng).unwrap_err().to_string();
        assert!(error.contains("4x4"), "{error}");
    }

    proptest! {
        #[test]
        fn boxes_lie_inside_the_image(height in 1usize..80, width in 1usize..80, seed: u64) {
            let mut rng = stream(seed, Purpose::Augment, [0, 0]);
            RandomResizedCrop::default().crop_box((height, width), &mut rng).check((height, width)).unwrap();
            ClampedCrop::default().crop_box((height, width), &mut rng).check((height, width)).unwrap();
        }

        #[test]
        fn boxes_of_large_images_have_the_share_and_aspect_asked_for(seed: u64) {
            let op = RandomResizedCrop { scale: [0.2, 0.5], ..RandomResizedCrop::default() };
            let drawn = op.crop_box((1000, 1000), &mut stream(seed, Purpose::Augment, [0, 0]));
            let share = (drawn.height * drawn.width) as f64 / 1e6;
            let aspect = drawn.width as f64 / drawn.height as f64;
            prop_assert!((0.198..=0.502).contains(&share), "{share}");
            prop_assert!((0.745..=1.34).contains(&aspect), "{aspect}");
        }
    }
}
