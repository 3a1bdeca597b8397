//! Files of images.

use std::io::Cursor;
use std::path::Path;
use std::sync::OnceLock;

use image::{ColorType, DynamicImage, ImageDecoder, ImageReader};

use crate::augment::Sample;
use crate::{Error, Result, files};

/// Reads an image file of any colour type as RGB: alpha is dropped, of 16-bit values the high byte is kept,
/// and orientation tags are ignored, as by Pillow's `convert("RGB")`.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it cannot be decoded or a JPEG is cut short.
pub fn decode(path: &Path) -> Result<Sample> {
    let bytes = files::read(path)?;
    decode_bytes(&bytes, path)
}

/// Reads the bytes of an image file, see [`decode`]; `path` names them in errors.
pub(super) fn decode_bytes(bytes: &[u8], path: &Path) -> Result<Sample> {
    let broken = |what: String| Error::format(path, what, "remove the file or save it again");
    if is_cut_jpeg(bytes) {
        return Err(broken("the JPEG is cut short".into()));
    }
    let undecoded = |error| broken(format!("cannot be decoded: {error}"));
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let decoder = reader.map_err(Error::io("read", path))?.into_decoder();
    let decoder = decoder.map_err(undecoded)?;
    check_size(decoder.dimensions(), path)?;
    let image = DynamicImage::from_decoder(decoder).map_err(undecoded)?;
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

/// The longest side of an image in pixels.
const LONGEST_SIDE: u32 = 65_535;

/// The most pixels of an image: 100 million, or what `MIM_MAX_PIXELS` says.
fn most_pixels() -> u64 {
    static MOST: OnceLock<u64> = OnceLock::new();
    let said = || std::env::var("MIM_MAX_PIXELS").ok()?.parse().ok();
    *MOST.get_or_init(|| said().unwrap_or(100_000_000))
}

/// Refuses an image before it is unpacked: a small file can hold more pixels than any memory.
fn check_size((width, height): (u32, u32), path: &Path) -> Result<()> {
    let (pixels, most) = (u64::from(width) * u64::from(height), most_pixels());
    if pixels <= most && width.max(height) <= LONGEST_SIDE {
        return Ok(());
    }
    let what = format!(
        "the image has {width}x{height} pixels; at most {most}, and {LONGEST_SIDE} a side, are read"
    );
    let fix = "save it smaller, or set MIM_MAX_PIXELS to a larger number";
    Err(Error::format(path, what, fix))
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
