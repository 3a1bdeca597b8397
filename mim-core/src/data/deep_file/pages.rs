//! TIFF files with any channels and pages.

use std::io::Cursor;
use std::path::Path;

use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits};

use super::super::image_file::check_size;
use super::super::reading::TiffPages;
use super::{Stored, damaged, floats, interleaved, tiles};
use crate::augment::Depth;
use crate::{Error, Result};

/// The most bytes of values in a page, and the most values in all pages: a small file can hold many that unpack to much.
const LARGEST: usize = 2 << 30;

pub(super) type Reader<'a> = Decoder<Cursor<&'a [u8]>>;

fn open<'a>(bytes: &'a [u8], path: &Path) -> Result<Reader<'a>> {
    let decoder = Decoder::new(Cursor::new(bytes));
    let decoder = decoder.map_err(|error| damaged(path, undecoded(&error)))?;
    let mut limits = Limits::default();
    limits.decoding_buffer_size = LARGEST;
    limits.intermediate_buffer_size = LARGEST;
    Ok(decoder.with_limits(limits))
}

/// Whether only this module reads a TIFF, also as RGB: BigTIFF, and separate tiles for each channel.
pub(super) fn only_here(bytes: &[u8]) -> bool {
    let is_big = [b"II+\0", b"MM\0+"]
        .iter()
        .any(|start| bytes.starts_with(*start));
    let in_tiles = || {
        let decoder = Decoder::new(Cursor::new(bytes)).ok();
        decoder.is_some_and(|mut decoder| tiles::are_of_channels(&mut decoder).unwrap_or(false))
    };
    is_big || in_tiles()
}

/// The colour type of the first page.
pub(super) fn color_of(bytes: &[u8], path: &Path) -> Result<ColorType> {
    let color = open(bytes, path)?.colortype();
    color.map_err(|error| damaged(path, undecoded(&error)))
}

/// Reads the first page with all of its channels, or the channels of all pages one after another.
///
/// # Errors
///
/// [`Error::Format`] naming the file if it is damaged, too large, or has pages that do not belong together.
pub(super) fn read(bytes: &[u8], path: &Path, pages: TiffPages) -> Result<Stored> {
    let broken = |what: String| damaged(path, what);
    let mut decoder = open(bytes, path)?;
    let mut stored = page(&mut decoder, path)?;
    if pages == TiffPages::First {
        return Ok(stored);
    }
    let mut count = stored.values.len();
    let mut all = vec![(stored.values, stored.channels)];
    while decoder.more_images() {
        let next = decoder.next_image();
        next.map_err(|error| broken(undecoded(&error)))?;
        let next = page(&mut decoder, path)?;
        if (next.size, next.depth) != (stored.size, stored.depth) {
            let what = format!(
                "page {} is {:?} pixels of {}, the first {:?} of {}",
                all.len() + 1,
                next.size,
                next.depth,
                stored.size,
                stored.depth
            );
            let fix = "save pages of one size and type, or read the first alone: data.tiff_pages = \"first\"";
            return Err(Error::format(path, what, fix));
        }
        count += next.values.len();
        check_count(count, path)?;
        all.push((next.values, next.channels));
    }
    stored.channels = all.iter().map(|(_, channels)| channels).sum();
    stored.values = side_by_side(&all, stored.size.0 * stored.size.1);
    Ok(stored)
}

fn check_count(values: usize, path: &Path) -> Result<()> {
    if values <= LARGEST {
        return Ok(());
    }
    let what = format!("has more than {LARGEST} values in all of its pages");
    let fix = "save fewer pages in a file, or read the first alone: data.tiff_pages = \"first\"";
    Err(Error::format(path, what, fix))
}

pub(super) fn undecoded(error: &tiff::TiffError) -> String {
    format!("cannot be decoded: {error}")
}

/// The channels of all pages in one image.
fn side_by_side(pages: &[(Vec<f32>, usize)], pixels: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(pages.iter().map(|(values, _)| values.len()).sum());
    for pixel in 0..pixels {
        for (page, channels) in pages {
            values.extend_from_slice(&page[pixel * channels..][..*channels]);
        }
    }
    values
}

/// The page at which the decoder is.
fn page(decoder: &mut Reader<'_>, path: &Path) -> Result<Stored> {
    let broken = |error: tiff::TiffError| damaged(path, undecoded(&error));
    let (width, height) = decoder.dimensions().map_err(broken)?;
    check_size((width, height), path)?;
    let size = (height as usize, width as usize);
    let color = decoder.colortype().map_err(broken)?;
    if let ColorType::Palette(_) = color {
        let what = "its values are places in a palette of colours";
        let fix = "save it as RGB, or leave data.range out";
        return Err(Error::format(path, what, fix));
    }
    let (values, depth, in_planes) = if tiles::are_of_channels(decoder).map_err(broken)? {
        let (values, depth) = tiles::read(decoder, size).map_err(|what| damaged(path, what))?;
        (values, depth, true)
    } else {
        whole(decoder, path, usize::from(color.bit_depth()))?
    };
    let pixels = size.0 * size.1;
    if pixels == 0 || values.is_empty() || !values.len().is_multiple_of(pixels) {
        let (count, (height, width)) = (values.len(), size);
        let what = format!("has {count} values for {height}x{width} pixels");
        return Err(damaged(path, what));
    }
    let channels = values.len() / pixels;
    Ok(Stored {
        values: match in_planes {
            true => interleaved(&values, channels),
            false => values,
        },
        size,
        channels,
        depth,
    })
}

/// All values of a page, their type, and whether channel follows channel.
fn whole(decoder: &mut Reader<'_>, path: &Path, bits: usize) -> Result<(Vec<f32>, Depth, bool)> {
    let broken = |error: tiff::TiffError| damaged(path, undecoded(&error));
    let mut read = DecodingResult::U8(vec![]);
    let layout = decoder.read_image_to_buffer(&mut read).map_err(broken)?;
    if read.as_buffer(0).as_bytes().len() < layout.complete_len {
        let what = format!("has more than {LARGEST} bytes of values");
        return Err(damaged(path, what));
    }
    let in_planes = layout.planes > 1;
    if let (1 | 2 | 4, DecodingResult::U8(bytes)) = (bits, &read) {
        let (width, height) = decoder.dimensions().map_err(broken)?;
        let row = layout.row_stride.map_or(bytes.len(), |stride| stride.get());
        let values = match in_planes || height == 0 {
            true => return Err(damaged(path, format!("has planes of {bits} bits"))),
            false => unpacked(bytes, bits, (row, width as usize)),
        };
        return Ok((values, Depth::U8, false));
    }
    let (values, depth) = values(read).map_err(|what| damaged(path, what))?;
    Ok((values, depth, in_planes))
}

/// Grey values of a few bits, spread over the range of a byte; rows of `stride` bytes hold `width` of them.
fn unpacked(bytes: &[u8], bits: usize, (stride, width): (usize, usize)) -> Vec<f32> {
    let largest = (1u8 << bits) - 1;
    let in_byte = 8 / bits;
    let rows = bytes.chunks_exact(stride.max(1));
    let values = rows.flat_map(|row| {
        (0..width).filter_map(move |at| {
            let shift = 8 - bits * (at % in_byte + 1);
            let value = row.get(at / in_byte)? >> shift & largest;
            Some(f32::from(value * (255 / largest)))
        })
    });
    values.collect()
}

/// The values as f32, and what they were.
#[expect(clippy::cast_possible_truncation, reason = "values of an image as f32")]
pub(super) fn values(read: DecodingResult) -> Result<(Vec<f32>, Depth), String> {
    let narrow = |value: f64| value as f32;
    Ok(match read {
        DecodingResult::U8(values) => (floats(values), Depth::U8),
        DecodingResult::U16(values) => (floats(values), Depth::U16),
        DecodingResult::I16(values) => (floats(values), Depth::I16),
        DecodingResult::I8(values) => (floats(values), Depth::I8),
        DecodingResult::F32(values) => (values, Depth::F32),
        DecodingResult::F16(values) => (values.into_iter().map(f32::from).collect(), Depth::F16),
        DecodingResult::F64(values) => (values.into_iter().map(narrow).collect(), Depth::F64),
        DecodingResult::U32(values) => {
            let values = values.into_iter().map(|value| narrow(f64::from(value)));
            (values.collect(), Depth::U32)
        }
        DecodingResult::I32(values) => {
            let values = values.into_iter().map(|value| narrow(f64::from(value)));
            (values.collect(), Depth::I32)
        }
        _ => return Err("has whole numbers of 64 bits".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_too_much_together_are_refused() {
        let path = Path::new("a.tif");
        check_count(LARGEST, path).unwrap();
        let error = check_count(LARGEST + 1, path).unwrap_err().to_string();
        assert!(error.contains("data.tiff_pages"), "{error}");
    }
}
