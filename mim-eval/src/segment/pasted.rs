//! A segmentation task made from labelled images on a dark background.

use std::f32::consts::TAU;
use std::sync::Arc;

use mim_core::augment::{CropBox, Interpolation, Sample, resize};
use mim_core::data::{Dataset, Split};
use mim_core::rng::{Purpose, stream};
use mim_core::{Error, ImageSize, Result};
use rand::{Rng, RngExt};

use super::dataset::{MaskedDataset, MaskedImage};

/// Seed of the pictures, independent of the seed of a run.
const SEED: u64 = 0x5e9_0b1e_c700_0001;
/// Values above this belong to the object.
const DARK: u8 = 20;
/// Number of images whose borders are checked first.
const LOOKED_AT: usize = 32;
/// Minimum and maximum size of the object relative to the shorter side.
const SHARE: [f32; 2] = [0.6, 0.95];
/// Number of waves in a texture.
const WAVES: usize = 3;

/// The objects of labelled images, such as Fashion-MNIST's, pasted on textures.
///
/// Each object has a random size and position. Class 0 is the texture, class `label + 1` the object. A picture is
/// generated when it is read, and is always the same for its index.
///
/// A task for first experiments without masks. The object is the part brighter than a dark background.
#[derive(Debug, Clone)]
pub struct PastedObjects {
    source: Arc<dyn Dataset>,
    size: ImageSize,
    split: Split,
}

impl PastedObjects {
    /// Pictures of `size` with the objects of `source`; positions and textures differ between values of
    /// `split`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the images have no labels, have more than 254 classes, are point clouds or do not have
    /// a dark background.
    pub fn new(source: Arc<dyn Dataset>, size: ImageSize, split: Split) -> Result<Self> {
        let refuse = |why: &str| {
            let fix = "use masks (PATH/train/images, PATH/train/masks, the same in val), or labelled images on black such as Fashion-MNIST";
            Err(Error::unsupported(
                "a segmentation task made from these images",
                why.to_owned(),
                fix,
            ))
        };
        if source.classes() == 0 {
            return refuse("there are neither masks nor labels");
        }
        if source.classes() > usize::from(u8::MAX) - 1 {
            return refuse("a mask can have at most 254 classes and the background");
        }
        let (mut bright, mut border) = (0, 0);
        for index in 0..source.len().min(LOOKED_AT) {
            let image = source.read(index)?;
            if image.is_cloud() {
                return refuse("they are point clouds");
            }
            let found = bright_border(&image);
            (bright, border) = (bright + found.0, border + found.1);
        }
        // Objects may touch the border, but not cover most of it.
        if bright * 4 > border {
            return refuse(
                "their borders are not dark, so objects cannot be separated from the background",
            );
        }
        Ok(Self {
            source,
            size,
            split,
        })
    }

    /// Number of classes in the masks, including the background.
    pub fn classes(&self) -> usize {
        self.source.classes() + 1
    }
}

impl MaskedDataset for PastedObjects {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn read(&self, index: usize) -> Result<MaskedImage> {
        let object = self.source.read(index)?;
        let mut rng = stream(SEED, Purpose::Augment, [self.split as u64, index as u64]);
        let (tall, wide) = (self.size.height, self.size.width);
        let channels = object.channels();
        let mut pixels = texture((tall, wide), channels, &mut rng);
        let mut mask = vec![0; tall * wide];
        let share = SHARE[0] + (SHARE[1] - SHARE[0]) * rng.random::<f32>();
        let object = fitted(object, share * tall.min(wide) as f32)?;
        let (height, width) = object.size();
        let (top, left) = (
            rng.random_range(0..=tall - height),
            rng.random_range(0..=wide - width),
        );
        let label = self.source.label(index).unwrap_or(0);
        let class = u8::try_from(label + 1).unwrap_or(u8::MAX);
        for (at, values) in object.pixels().chunks_exact(channels).enumerate() {
            if is_object(values) {
                let place = (top + at / width) * wide + left + at % width;
                pixels[place * channels..][..channels].copy_from_slice(values);
                mask[place] = class;
            }
        }
        let image = Sample::new(pixels, (tall, wide), channels)?;
        MaskedImage::new(image, (mask, (tall, wide)), self.name_of(index))
    }

    fn name_of(&self, index: usize) -> String {
        format!("{} on a texture", self.source.name_of(index))
    }
}

fn is_object(values: &[u8]) -> bool {
    values.iter().any(|value| *value > DARK)
}

/// Number of bright pixels on an image's border, and number of border pixels.
fn bright_border(image: &Sample) -> (usize, usize) {
    let (height, width) = image.size();
    let pixels = image.pixels().chunks_exact(image.channels()).enumerate();
    let border = pixels.filter(|(at, _)| {
        let (row, col) = (at / width, at % width);
        row == 0 || col == 0 || row + 1 == height || col + 1 == width
    });
    border.fold((0, 0), |(bright, all), (_, values)| {
        (bright + usize::from(is_object(values)), all + 1)
    })
}

/// The image resized so that its longer side has `side` pixels.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a side of a few pixels or more"
)]
fn fitted(image: Sample, side: f32) -> Result<Sample> {
    let (height, width) = image.size();
    let scale = side / height.max(width) as f32;
    let scaled = |length: usize| ((length as f32 * scale).round() as usize).max(1);
    let whole = CropBox::whole((height, width));
    resize(
        image,
        whole,
        (scaled(height), scaled(width)),
        Interpolation::Bicubic,
    )
}

/// A texture of waves with random directions, lengths and colours, plus noise, between black and middle grey.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to a byte"
)]
fn texture((height, width): (usize, usize), channels: usize, rng: &mut dyn Rng) -> Vec<u8> {
    let side = height.max(width) as f32;
    let mut draw = |low: f32, high: f32| low + (high - low) * rng.random::<f32>();
    let base: Vec<f32> = (0..channels).map(|_| draw(40., 100.)).collect();
    let waves: Vec<_> = (0..WAVES)
        .map(|_| {
            let (sin, cos) = draw(0., TAU).sin_cos();
            let turns = TAU / draw(3., side.max(4.));
            let heights: Vec<f32> = (0..channels).map(|_| draw(5., 25.)).collect();
            (turns * sin, turns * cos, draw(0., TAU), heights)
        })
        .collect();
    let mut pixels = Vec::with_capacity(height * width * channels);
    for place in 0..height * width {
        let (row, col) = ((place / width) as f32, (place % width) as f32);
        for (channel, base) in base.iter().enumerate() {
            let wave = waves.iter().map(|(down, right, start, heights)| {
                heights[channel] * (row * down + col * right + start).sin()
            });
            let value = base + wave.sum::<f32>() + draw(-10., 10.);
            pixels.push(value.clamp(0., 255.) as u8);
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::data::{DataSource, MemoryDataset};

    fn embedded(split: Split, side: usize) -> PastedObjects {
        let source = DataSource::Embedded.open(split).unwrap();
        PastedObjects::new(source, side.into(), split).unwrap()
    }

    #[test]
    fn a_picture_shows_an_object_of_its_class_on_a_texture() {
        let pasted = embedded(Split::Train, 32);
        assert_eq!((pasted.len(), pasted.classes()), (1000, 11));
        for index in 0..20 {
            let picture = pasted.read(index).unwrap();
            let class = u8::try_from(pasted.source.label(index).unwrap() + 1).unwrap();
            assert!(picture.mask.iter().all(|found| [0, class].contains(found)));
            let object = picture.mask.iter().filter(|found| **found == class).count();
            assert!(
                (60..900).contains(&object),
                "{index}: {object} of 1024 pixels"
            );
            assert_eq!(picture.image.size(), (32, 32));
        }
    }

    #[test]
    fn pictures_repeat_and_differ_between_splits() {
        let [first, again] = [0, 1].map(|_| embedded(Split::Train, 28).read(3).unwrap());
        assert_eq!(first, again);
        let source = DataSource::Embedded.open(Split::Train).unwrap();
        let other = PastedObjects::new(source, 28.into(), Split::Test).unwrap();
        assert_ne!(other.read(3).unwrap(), first);
        let ground: Vec<u8> = first
            .image
            .pixels()
            .iter()
            .zip(&first.mask)
            .filter(|(_, class)| **class == 0)
            .map(|(value, _)| *value)
            .collect();
        let mean = ground.iter().map(|value| f64::from(*value)).sum::<f64>() / ground.len() as f64;
        assert!(
            (20. ..120.).contains(&mean),
            "the background is a texture, not black: {mean}"
        );
    }

    #[test]
    fn images_without_labels_or_a_dark_background_are_refused() {
        let of = |value: u8, classes: usize| {
            let images = MemoryDataset::new(vec![value; 32], (4, 4), 1).unwrap();
            let images = match classes {
                0 => images,
                _ => images
                    .with_labels(vec![0, 1], classes, "labels".as_ref())
                    .unwrap(),
            };
            PastedObjects::new(Arc::new(images), 8.into(), Split::Train)
        };
        for (made, what) in [
            (of(0, 0), "neither masks nor labels"),
            (of(200, 2), "not dark"),
            (of(0, 255), "254 classes"),
        ] {
            let error = made.unwrap_err().to_string();
            assert!(
                error.contains(what) && error.contains("PATH/train/masks"),
                "{error}"
            );
        }
        assert!(of(0, 2).is_ok());
    }
}
