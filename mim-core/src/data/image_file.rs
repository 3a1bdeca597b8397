//! Files of images.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::augment::Sample;
use crate::{Error, Result};

/// Reads an image file of any colour type as RGB: alpha is dropped, of 16-bit values the high byte is kept,
/// and orientation tags are ignored, as by Pillow's `convert("RGB")`.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it cannot be decoded or a JPEG is cut short.
pub fn decode(path: &Path) -> Result<Sample> {
    decode_file(path, false)
}

/// Reads an image file, see [`decode`]; `turned` upright if its file says how.
pub(super) fn decode_file(path: &Path, turned: bool) -> Result<Sample> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    decode_bytes(&bytes, path, turned)
}

/// Whether the first bytes of a file are those of an image that can be read.
pub(super) fn is_image(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut start));
    read.is_ok() && image::guess_format(&start).is_ok_and(|format| format.reading_enabled())
}

/// Reads the bytes of an image file, see [`decode_file`]; `path` names them in errors.
pub(super) fn decode_bytes(bytes: &[u8], path: &Path, turned: bool) -> Result<Sample> {
    let broken = |what: String| Error::format(path, what, "remove the file or save it again");
    if is_cut_jpeg(bytes) {
        return Err(broken("the JPEG is cut short".into()));
    }
    let undecodable = |error| broken(format!("cannot be decoded: {error}"));
    let mut decoder = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(Error::io("read", path))?
        .into_decoder()
        .map_err(undecodable)?;
    let mut limits = Limits::default();
    limits
        .reserve(decoder.total_bytes())
        .and_then(|()| decoder.set_limits(limits))
        .map_err(undecodable)?;
    // What cannot be read of the notes beside an image says nothing of how to turn it.
    let orientation = match turned {
        true => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        false => Orientation::NoTransforms,
    };
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    let size = (image.height() as usize, image.width() as usize);
    let deep = matches!(
        image.color(),
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16
    );
    let pixels = if deep {
        let values = image.into_rgb16().into_raw();
        values
            .into_iter()
            .map(|value| value.to_be_bytes()[0])
            .collect()
    } else {
        image.into_rgb8().into_raw()
    };
    Sample::new(pixels, size, 3)
}

/// Whether a JPEG's last scan has no end marker: the decoder would fill the rest with grey and say nothing.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: u8| {
        bytes
            .array_windows()
            .rposition(|pair| *pair == [0xff, marker])
    };
    bytes.starts_with(&[0xff, 0xd8])
        && !bytes.ends_with(&[0xff, 0xd9])
        && last(0xd9).is_none_or(|end| last(0xda).is_some_and(|scan| scan > end))
}
