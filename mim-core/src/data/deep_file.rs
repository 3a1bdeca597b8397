//! Images of any depth and number of channels, as values.

use std::io::Cursor;
use std::path::Path;

use candle_core::{DType, Tensor};
use image::DynamicImage;
use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits};

use super::reading::{ArrayLayout, ReadImage, ValueRange};
use crate::augment::Sample;
use crate::weights::read_npy_bytes;
use crate::{Error, Result};

/// Bytes of values that a TIFF may have.
const LARGEST: usize = 2 << 30;

/// Values as a file has them, interleaved, and the value of full brightness; none of floats, whose values stay.
struct Stored {
    values: Vec<f32>,
    size: (usize, usize),
    channels: usize,
    full: Option<f32>,
}

/// The values of an image file, scaled by `range`: of TIFF all channels of the first page, of arrays those of the layout
/// that was said, of other formats grey or RGB.
pub(super) fn decode(
    bytes: &[u8],
    path: &Path,
    read: ReadImage,
    range: ValueRange,
) -> Result<Sample> {
    let stored = if bytes.starts_with(b"\x93NUMPY") {
        of_array(&read_npy_bytes(bytes, path)?, read.layout)
    } else if [&b"II*\0"[..], b"MM\0*", b"II+\0", b"MM\0+"]
        .iter()
        .any(|magic| bytes.starts_with(magic))
    {
        of_tiff(bytes)
    } else {
        Ok(of_image(super::image_file::read(bytes, path, read.turned)?))
    };
    let fix = "remove the file or save it again";
    let mut stored = stored.map_err(|what| Error::format(path, what, fix))?;
    let (low, high) = match (range, stored.full) {
        (ValueRange::Bounds([low, high]), _) => (low, high),
        (ValueRange::Dtype, Some(full)) if full.is_nan() => {
            let fix = "give it by data.range = [low, high]";
            return Err(Error::format(
                path,
                "its type says no range of its values",
                fix,
            ));
        }
        (ValueRange::Dtype, full) => (0., full.unwrap_or(1.)),
    };
    if (low, high) != (0., 1.) {
        let scale = 1. / (high - low);
        stored
            .values
            .iter_mut()
            .for_each(|value| *value = (*value - low) * scale);
    }
    let sample = Sample::of_values(stored.values, stored.size, stored.channels);
    sample.map_err(|error| Error::format(path, error.to_string(), fix))
}

/// Grey or RGB of 8, 16 or 32 bits; alpha is dropped.
fn of_image(image: DynamicImage) -> Stored {
    let size = (image.height() as usize, image.width() as usize);
    let is_grey = !image.color().has_color();
    let (full, channels) = (image_full(&image), if is_grey { 1 } else { 3 });
    let values: Vec<f32> = match (full, is_grey) {
        (Some(255.), true) => floats(image.into_luma8().into_raw()),
        (Some(255.), false) => floats(image.into_rgb8().into_raw()),
        (Some(_), true) => floats(image.into_luma16().into_raw()),
        (Some(_), false) => floats(image.into_rgb16().into_raw()),
        (None, _) => image.into_rgb32f().into_raw(),
    };
    Stored {
        values,
        size,
        channels,
        full,
    }
}

fn floats<T: Into<f32>>(values: Vec<T>) -> Vec<f32> {
    values.into_iter().map(Into::into).collect()
}

/// The value of full brightness.
fn image_full(image: &DynamicImage) -> Option<f32> {
    match image {
        DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) => None,
        other if other.color().bytes_per_pixel() / other.color().channel_count() == 2 => {
            Some(65535.)
        }
        _ => Some(255.),
    }
}

/// The first page of a TIFF, with all of its channels.
fn of_tiff(bytes: &[u8]) -> Result<Stored, String> {
    let broken = |error: tiff::TiffError| format!("cannot be decoded: {error}");
    let decoder = Decoder::new(Cursor::new(bytes)).map_err(broken)?;
    let mut limits = Limits::default();
    limits.decoding_buffer_size = LARGEST;
    limits.intermediate_buffer_size = LARGEST;
    let mut decoder = decoder.with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(broken)?;
    let size = (height as usize, width as usize);
    let colour = decoder.colortype().map_err(broken)?;
    if let ColorType::Palette(_) = colour {
        return Err("has a palette, whose colours are no values".to_owned());
    }
    let mut read = DecodingResult::U8(vec![]);
    let layout = decoder.read_image_to_buffer(&mut read).map_err(broken)?;
    if read.as_buffer(0).as_bytes().len() < layout.complete_len {
        return Err(format!("has more than {LARGEST} bytes of values"));
    }
    let (values, full) = match read {
        DecodingResult::U8(values) => (floats(values), Some(255.)),
        DecodingResult::U16(values) => (floats(values), Some(65535.)),
        DecodingResult::I16(values) => (floats(values), Some(32767.)),
        DecodingResult::I8(values) => (floats(values), Some(127.)),
        DecodingResult::F32(values) => (values, None),
        DecodingResult::F16(values) => (values.into_iter().map(f32::from).collect(), None),
        DecodingResult::F64(values) => (values.into_iter().map(narrow).collect(), None),
        DecodingResult::U32(values) => {
            let values = values.into_iter().map(|value| narrow(f64::from(value)));
            (values.collect(), Some(4_294_967_295.))
        }
        DecodingResult::I32(values) => {
            let values = values.into_iter().map(|value| narrow(f64::from(value)));
            (values.collect(), Some(2_147_483_647.))
        }
        _ => return Err("has whole numbers of 64 bits".to_owned()),
    };
    let pixels = size.0 * size.1;
    if pixels == 0 || values.is_empty() || !values.len().is_multiple_of(pixels) {
        let what = format!(
            "has {} values for {}x{} pixels",
            values.len(),
            size.0,
            size.1
        );
        return Err(what);
    }
    let channels = values.len() / pixels;
    Ok(Stored {
        values: match layout.planes > 1 {
            true => interleaved(&values, channels),
            false => values,
        },
        size,
        channels,
        full,
    })
}

#[expect(clippy::cast_possible_truncation, reason = "values of an image as f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// `[channels, pixels]` as `[pixels, channels]`.
fn interleaved(planes: &[f32], channels: usize) -> Vec<f32> {
    let pixels = planes.len() / channels;
    let at = |place: usize| planes[place % channels * pixels + place / channels];
    (0..planes.len()).map(at).collect()
}

/// An array of two axes, or of three in the order that was said.
fn of_array(array: &Tensor, layout: Option<ArrayLayout>) -> Result<Stored, String> {
    let full = match array.dtype() {
        DType::U8 => Some(255.),
        dtype if dtype.is_float() => None,
        // What a file of 16 bits holds is read as 64.
        _ => Some(f32::NAN),
    };
    let failed = |error: candle_core::Error| error.to_string();
    let array = array.to_dtype(DType::F32).map_err(failed)?;
    let (height, width, channels, is_planes) = match (array.dims(), layout) {
        (&[height, width], _) => (height, width, 1, false),
        (&[height, width, channels], Some(ArrayLayout::Hwc)) => (height, width, channels, false),
        (&[channels, height, width], Some(ArrayLayout::Chw)) => (height, width, channels, true),
        (dims, _) => {
            return Err(format!(
                "is an array of {} axes, {dims:?}, not of two or three",
                dims.len()
            ));
        }
    };
    let values = array.flatten_all().and_then(|array| array.to_vec1());
    let values: Vec<f32> = values.map_err(failed)?;
    Ok(Stored {
        values: match is_planes {
            true => interleaved(&values, channels),
            false => values,
        },
        size: (height, width),
        channels,
        full,
    })
}
