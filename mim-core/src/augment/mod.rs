//! Augmentation of images on the CPU: operations as data, with the results of torchvision on Pillow images.
//!
//! An operation is a serde struct that implements [`ImageOp`]. [`Augment`] is the tagged enum of all of them.
//! [`ViewPlan`] is the pipeline that turns one image into the views of a method. Random draws are separate from the
//! operation on pixels: the latter is a pure public function ([`resize`], [`gaussian_blur`], [`adjust_hue`], ...),
//! tested byte for byte against Pillow.
//!
//! ```
//! use mim_core::augment::{Sample, ViewPlan};
//! use mim_core::rng::{Purpose, stream};
//!
//! # fn main() -> mim_core::Result<()> {
//! let photo = Sample::new(vec![128; 40 * 60 * 3], (40, 60), 3)?;
//! let views = ViewPlan::mae(32).apply(photo, &mut stream(0, Purpose::Augment, [0, 0]))?;
//! assert_eq!(views[0].size(), (32, 32));
//! # Ok(())
//! # }
//! ```

mod affine;
mod blur;
mod channel_dropout;
mod color;
mod convolve;
mod crop;
mod depth;
mod flip;
mod jitter;
mod levels;
mod pad;
mod plan;
mod points;
mod rand_augment;
mod random_box;
mod resize;
mod sample;
mod size;

use std::sync::Once;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

pub use affine::{Affine, transform};
pub use blur::{GaussianBlur, gaussian_blur};
pub use channel_dropout::ChannelDropout;
pub use color::{Grayscale, Solarize, ToChannels, grayscale, solarize, weighted_grayscale};
pub use crop::{CenterCrop, ClampedCrop, CropBox, PixelShift, RandomResizedCrop};
pub use depth::Depth;
pub use flip::HorizontalFlip;
pub use jitter::{ColorJitter, adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation};
pub use levels::{adjust_sharpness, autocontrast, equalize, invert, posterize, solarize_add};
pub use pad::Pad;
pub use plan::ViewPlan;
pub use points::{RotatePoints, SamplePoints, ScaleAndShift, UnitSphere};
pub(crate) use points::{rotation, turned};
pub use rand_augment::RandAugment;
pub use random_box::RandomBox;
pub use resize::{Interpolation, Resize, resize};
pub use sample::Sample;
pub use size::Size;

use crate::{Error, Result};

/// An operation on one image. All its randomness comes from the generator that it is given.
pub trait ImageOp {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], which names the setting.
    fn check(&self) -> Result<()>;

    /// Applies the operation and updates the sample's crop.
    ///
    /// # Errors
    ///
    /// Fails if the settings do not fit the image.
    fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Sample>;
}

/// One operation of a [`ViewPlan`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Augment {
    /// A random box of the image, resized.
    RandomResizedCrop(RandomResizedCrop),
    /// A random box of the image, not resized.
    RandomBox(RandomBox),
    /// A random box drawn once and clamped to the image, resized.
    ClampedCrop(ClampedCrop),
    /// Resizes the whole image.
    Resize(Resize),
    /// The middle of the image.
    CenterCrop(CenterCrop),
    /// A box at a random small offset, not resized.
    PixelShift(PixelShift),
    /// A border of one colour.
    Pad(Pad),
    /// Mirrors the image left to right.
    HorizontalFlip(HorizontalFlip),
    /// Random brightness, contrast, saturation and hue.
    ColorJitter(ColorJitter),
    /// Makes the image grey and keeps its number of channels.
    Grayscale(Grayscale),
    /// Changes the number of channels.
    ToChannels(ToChannels),
    /// Blurs the image.
    GaussianBlur(GaussianBlur),
    /// Inverts bright pixels.
    Solarize(Solarize),
    /// Random operations of random strength.
    RandAugment(RandAugment),
    /// Drops random channels.
    ChannelDropout(ChannelDropout),
    /// Draws points of a cloud.
    SamplePoints(SamplePoints),
    /// Moves a cloud into the unit sphere.
    UnitSphere(UnitSphere),
    /// Scales the axes of a cloud and moves it.
    ScaleAndShift(ScaleAndShift),
    /// Rotates a cloud.
    RotatePoints(RotatePoints),
}

impl Augment {
    fn op(&self) -> &dyn ImageOp {
        match self {
            Self::RandomResizedCrop(op) => op,
            Self::RandomBox(op) => op,
            Self::ClampedCrop(op) => op,
            Self::Resize(op) => op,
            Self::CenterCrop(op) => op,
            Self::PixelShift(op) => op,
            Self::Pad(op) => op,
            Self::HorizontalFlip(op) => op,
            Self::ColorJitter(op) => op,
            Self::Grayscale(op) => op,
            Self::ToChannels(op) => op,
            Self::GaussianBlur(op) => op,
            Self::Solarize(op) => op,
            Self::RandAugment(op) => op,
            Self::ChannelDropout(op) => op,
            Self::SamplePoints(op) => op,
            Self::UnitSphere(op) => op,
            Self::ScaleAndShift(op) => op,
            Self::RotatePoints(op) => op,
        }
    }

    /// Whether it works on point clouds, not on images.
    pub fn is_of_points(&self) -> bool {
        matches!(
            self,
            Self::SamplePoints(_)
                | Self::UnitSphere(_)
                | Self::ScaleAndShift(_)
                | Self::RotatePoints(_)
        )
    }
}

impl ImageOp for Augment {
    fn check(&self) -> Result<()> {
        self.op().check()
    }

    fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        self.check()?;
        if sample.is_cloud() && !self.is_of_points() {
            return Err(Error::unsupported(
                format!("an operation on images, {self:?},"),
                "the data are point clouds",
                "use operations on points, such as { type = \"sample_points\", count = 1024 }, or data of images",
            ));
        }
        if sample.is_deep() && !self.takes_values(&sample) {
            return Ok(sample);
        }
        self.op().apply(sample, rng)
    }
}

impl Augment {
    /// Whether it works on a deep image. Colour operations do not: they are left out, with one warning per run.
    fn takes_values(&self, sample: &Sample) -> bool {
        static SAID: Once = Once::new();
        match self {
            Self::ColorJitter(_)
            | Self::Grayscale(_)
            | Self::Solarize(_)
            | Self::RandAugment(_) => {
                SAID.call_once(|| {
                    let channels = sample.channels();
                    tracing::warn!(
                        "colour operations of views are left out: the images have {channels} channels of values, not bytes"
                    );
                });
                false
            }
            _ => true,
        }
    }
}

/// A uniform draw from `[low, high]`.
fn uniform(rng: &mut dyn Rng, [low, high]: [f64; 2]) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// Draws whether an event of probability `p` happens.
fn happens(rng: &mut dyn Rng, p: f64) -> bool {
    rng.random::<f64>() < p
}

/// A uniform draw from `0..=last`.
fn offset(rng: &mut dyn Rng, last: usize) -> usize {
    rng.random_range(0..=last)
}

/// Checks that `p` is a probability.
fn check_probability(component: &'static str, p: f64) -> Result<()> {
    if (0. ..=1.).contains(&p) {
        return Ok(());
    }
    Err(Error::config(
        component,
        "p",
        p,
        "it is a probability",
        "choose a number from 0 to 1",
    ))
}

/// Checks that `range` is ordered, finite and not below `least`.
fn check_range(
    component: &'static str,
    field: &'static str,
    range: [f64; 2],
    least: f64,
) -> Result<()> {
    let [low, high] = range;
    if low >= least && low <= high && high.is_finite() {
        return Ok(());
    }
    Err(Error::config(
        component,
        field,
        format!("{range:?}"),
        format!("it is a range [low, high] with {least} <= low <= high"),
        "swap or correct the two numbers",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_operations_from_toml_and_names_unknown_settings() {
        #[derive(Deserialize)]
        struct Ops {
            ops: Vec<Augment>,
        }
        let parse = |text: &str| toml::from_str::<Ops>(text).map(|ops| ops.ops);
        let ops = parse(
            "ops = [{ type = 'random_resized_crop', size = 96, scale = [0.05, 0.25] },
                    { type = 'resize', size = [32, 48], interpolation = 'lanczos' }, { type = 'horizontal_flip' }]",
        )
        .unwrap();
        assert_eq!(
            ops[0],
            Augment::RandomResizedCrop(RandomResizedCrop {
                size: Size::Side(96),
                scale: [0.05, 0.25],
                ..RandomResizedCrop::default()
            })
        );
        assert_eq!(ops[1].clone(), {
            Augment::Resize(Resize {
                size: Size::HeightWidth([32, 48]),
                interpolation: Interpolation::Lanczos,
            })
        });
        let error = parse("ops = [{ type = 'horizontal_flip', prob = 0.5 }]").unwrap_err();
        assert!(error.to_string().contains("`prob`"), "{error}");
        let error = parse("ops = [{ type = 'center_crop', size = 'big' }]").unwrap_err();
        assert!(error.to_string().contains("[height, width]"), "{error}");
    }

    #[test]
    fn settings_out_of_range_are_errors_not_panics() {
        let mut rng = crate::rng::stream(0, crate::Purpose::Augment, [0, 0]);
        let bad = [
            Augment::RandomResizedCrop(RandomResizedCrop {
                scale: [1., 0.2],
                ..RandomResizedCrop::default()
            }),
            Augment::RandomResizedCrop(RandomResizedCrop {
                ratio: [0., 1.],
                ..RandomResizedCrop::default()
            }),
            Augment::CenterCrop(CenterCrop {
                size: Size::Side(0),
            }),
            Augment::HorizontalFlip(HorizontalFlip { p: 1.5 }),
            Augment::GaussianBlur(GaussianBlur {
                radius: [-1., 2.],
                p: 1.,
            }),
            Augment::ColorJitter(ColorJitter {
                hue: 0.7,
                ..ColorJitter::default()
            }),
            Augment::ToChannels(ToChannels { channels: 0 }),
            Augment::Grayscale(Grayscale {
                weights: Some([0.; 3]),
                ..Grayscale::default()
            }),
        ];
        for op in bad {
            let sample = Sample::new(vec![0; 12], (2, 2), 3).unwrap();
            assert!(
                matches!(op.apply(sample, &mut rng), Err(Error::InvalidConfig { .. })),
                "{op:?}"
            );
        }
    }

    /// Operations that work on each channel alone, as a recipe has them.
    fn of_each_channel() -> Vec<Augment> {
        #[derive(Deserialize)]
        struct Ops {
            ops: Vec<Augment>,
        }
        let text = "ops = [
            { type = 'random_resized_crop', size = 9 },
            { type = 'random_resized_crop', size = 24, interpolation = 'bilinear' },
            { type = 'random_box' },
            { type = 'clamped_crop', size = [7, 11] },
            { type = 'resize', size = 10, interpolation = 'lanczos' },
            { type = 'resize', size = [31, 8] },
            { type = 'center_crop', size = 10 },
            { type = 'center_crop', size = 20 },
            { type = 'pixel_shift', size = 8, max_shift = 4 },
            { type = 'pad', pixels = 3, fill = 100 },
            { type = 'horizontal_flip', p = 1.0 },
            { type = 'gaussian_blur', p = 1.0 },
        ]";
        toml::from_str::<Ops>(text).unwrap().ops
    }

    #[test]
    fn deep_images_go_through_operations_as_each_channel_does_in_bytes() {
        let size = (13, 17);
        for channels in [1, 3, 12] {
            let bytes: Vec<u8> = (0..size.0 * size.1 * channels)
                .map(|at| u8::try_from(80 + at * at * 7 % 100).unwrap())
                .collect();
            let values = bytes.iter().map(|byte| f32::from(*byte) / 255.).collect();
            let deep = Sample::of_values(values, size, channels).unwrap();
            for (seed, op) in of_each_channel().into_iter().enumerate() {
                let rng = || crate::rng::stream(seed as u64, crate::Purpose::Augment, [0, 0]);
                let done = op.apply(deep.clone(), &mut rng()).unwrap();
                assert_eq!(done.channels(), channels);
                for channel in 0..channels {
                    let plane = bytes.iter().skip(channel).step_by(channels).copied();
                    let plane = Sample::new(plane.collect(), size, 1).unwrap();
                    let plane = op.apply(plane, &mut rng()).unwrap();
                    assert_eq!((done.size(), done.crop()), (plane.size(), plane.crop()));
                    let values = done.values().iter().skip(channel).step_by(channels);
                    for (value, byte) in values.zip(plane.pixels()) {
                        // Bytes are rounded after each pass; none is near an end of its range.
                        let far = value * 255. - f32::from(*byte);
                        assert!(far.abs() < 2.5, "{op:?}, channel {channel}: {far}");
                    }
                }
            }
        }
    }

    #[test]
    fn operations_on_colours_leave_deep_images_alone() {
        let deep = Sample::of_values(vec![0.2; 4 * 4 * 12], (4, 4), 12).unwrap();
        let mut rng = crate::rng::stream(0, crate::Purpose::Augment, [0, 0]);
        for op in [
            Augment::ColorJitter(ColorJitter::default()),
            Augment::Grayscale(Grayscale::default()),
            Augment::Solarize(Solarize::default()),
            Augment::RandAugment(RandAugment::default()),
        ] {
            assert_eq!(op.apply(deep.clone(), &mut rng).unwrap(), deep, "{op:?}");
        }
        assert!(
            Augment::ToChannels(ToChannels { channels: 3 })
                .apply(deep, &mut rng)
                .is_err()
        );
    }
}
