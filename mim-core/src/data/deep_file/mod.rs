//! Images of any depth and number of channels, as values.

mod array;
mod pages;
mod tiles;

use std::path::Path;

use image::{DynamicImage, ImageBuffer, RgbImage};
use tiff::ColorType;

use super::reading::{ReadImage, TiffPages, ValueRange};
use crate::augment::{Depth, Sample};
use crate::{Error, Result};

/// Values as a file has them, interleaved.
struct Stored {
    values: Vec<f32>,
    size: (usize, usize),
    channels: usize,
    depth: Depth,
}

/// The values of an image file, scaled by `range`: all channels of a TIFF, arrays in the layout that was said, and other
/// formats as grey or RGB.
pub(super) fn decode(
    bytes: &[u8],
    path: &Path,
    read: &ReadImage,
    range: ValueRange,
) -> Result<Sample> {
    let is_any_of = |starts: &[&[u8]]| starts.iter().any(|start| bytes.starts_with(start));
    let mut stored = if is_any_of(&[b"\x93NUMPY", b"PK\x03\x04"]) {
        array::read(bytes, path, read)?
    } else if is_tiff(bytes) {
        pages::read(bytes, path, read.pages)?
    } else {
        of_image(super::image_file::read(bytes, path, read.turned)?)
    };
    scale(&mut stored, range);
    let sample = Sample::of_values(stored.values, stored.size, stored.channels);
    let sample = sample.map_err(|error| damaged(path, error.to_string()))?;
    Ok(sample.stored_as(stored.depth))
}

fn is_tiff(bytes: &[u8]) -> bool {
    let starts = [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"];
    starts.iter().any(|start| bytes.starts_with(*start))
}

/// RGB of bytes of a TIFF that the decoder of other images does not read; none if it reads it.
///
/// # Errors
///
/// [`Error::Format`] naming the file if it is damaged, or neither grey nor RGB.
pub(super) fn rgb(bytes: &[u8], path: &Path) -> Result<Option<DynamicImage>> {
    if !is_tiff(bytes) || !pages::only_here(bytes) {
        return Ok(None);
    }
    let color = pages::color_of(bytes, path)?;
    let places = match color {
        ColorType::Gray(8 | 16) | ColorType::GrayA(8 | 16) => [0, 0, 0],
        ColorType::RGB(8 | 16) | ColorType::RGBA(8 | 16) => [0, 1, 2],
        _ => {
            let what = format!("its kind of image cannot be decoded as RGB: {color:?}");
            let fix = "save it as PNG or JPEG; data.range reads a TIFF of any channels";
            return Err(Error::format(path, what, fix));
        }
    };
    let stored = pages::read(bytes, path, TiffPages::First)?;
    let pixels = stored.values.chunks_exact(stored.channels);
    let values = pixels.flat_map(|pixel| places.map(|place| pixel[place]));
    let [height, width] = [stored.size.0, stored.size.1].map(u32::try_from);
    let (Ok(height), Ok(width)) = (height, width) else {
        return Err(damaged(path, "has sides that are too long"));
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole numbers of 8 or 16 bits"
    )]
    let image = match stored.depth {
        Depth::U8 => RgbImage::from_raw(width, height, values.map(|value| value as u8).collect())
            .map(DynamicImage::ImageRgb8),
        _ => ImageBuffer::from_raw(width, height, values.map(|value| value as u16).collect())
            .map(DynamicImage::ImageRgb16),
    };
    match image {
        Some(image) => Ok(Some(image)),
        None => Err(damaged(path, "has fewer values than pixels")),
    }
}

fn damaged(path: &Path, what: impl Into<crate::Text>) -> Error {
    Error::format(path, what, "remove the file or save it again")
}

/// Maps the range of the values to `[0, 1]`.
#[expect(clippy::cast_possible_truncation, reason = "values of an image as f32")]
fn scale(stored: &mut Stored, range: ValueRange) {
    let (low, high) = match range {
        ValueRange::Bounds([low, high]) => (low, high),
        ValueRange::Dtype | ValueRange::Percentile => (0., stored.depth.largest().unwrap_or(1.)),
    };
    if (low, high) != (0., 1.) {
        let (low, factor) = (low as f32, (1. / (high - low)) as f32);
        let values = stored.values.iter_mut();
        values.for_each(|value| *value = (*value - low) * factor);
    }
}

/// Grey or RGB of 8, 16 or 32 bits; alpha is dropped.
fn of_image(image: DynamicImage) -> Stored {
    let size = (image.height() as usize, image.width() as usize);
    let is_grey = !image.color().has_color();
    let (depth, channels) = (depth_of(&image), if is_grey { 1 } else { 3 });
    let values = match (depth, is_grey) {
        (Depth::U8, true) => floats(image.into_luma8().into_raw()),
        (Depth::U8, false) => floats(image.into_rgb8().into_raw()),
        (Depth::U16, true) => floats(image.into_luma16().into_raw()),
        (Depth::U16, false) => floats(image.into_rgb16().into_raw()),
        _ => image.into_rgb32f().into_raw(),
    };
    Stored {
        values,
        size,
        channels,
        depth,
    }
}

fn floats<T: Into<f32>>(values: Vec<T>) -> Vec<f32> {
    values.into_iter().map(Into::into).collect()
}

/// The type of a decoded image's values.
pub(super) fn depth_of(image: &DynamicImage) -> Depth {
    let color = image.color();
    match color.bytes_per_pixel() / color.channel_count() {
        1 => Depth::U8,
        2 => Depth::U16,
        _ => Depth::F32,
    }
}

/// `[channels, pixels]` as `[pixels, channels]`.
fn interleaved(planes: &[f32], channels: usize) -> Vec<f32> {
    let pixels = planes.len() / channels;
    let at = |place: usize| planes[place % channels * pixels + place / channels];
    (0..planes.len()).map(at).collect()
}
