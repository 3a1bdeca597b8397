//! Files of images.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::OnceLock;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};

use super::deep_file;
use super::reading::ReadImage;
use crate::augment::Sample;
use crate::{Error, Result, files};

/// Reads an image file of any colour type as RGB, as Pillow's `convert("RGB")` does: alpha is dropped, 16-bit values
/// keep their high byte, and orientation tags are ignored.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it cannot be decoded or a JPEG is cut short.
pub fn decode(path: &Path) -> Result<Sample> {
    decode_file(path, &ReadImage::default())
}

/// Reads an image file, see [`decode`], as `how` says.
pub(super) fn decode_file(path: &Path, how: &ReadImage) -> Result<Sample> {
    let bytes = files::read(path)?;
    decode_bytes(&bytes, path, how)
}

/// Whether the first bytes of a file are those of an image that can be read.
pub(super) fn is_image(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut start));
    read.is_ok() && image::guess_format(&start).is_ok_and(|format| format.reading_enabled())
}

/// Reads the bytes of an image file, see [`decode_file`]; `path` names them in errors.
pub(super) fn decode_bytes(bytes: &[u8], path: &Path, how: &ReadImage) -> Result<Sample> {
    if let Some(range) = how.range {
        return deep_file::decode(bytes, path, how, range);
    }
    let image = match deep_file::rgb(bytes, path)? {
        Some(image) => image,
        None => read(bytes, path, how.turned)?,
    };
    let (size, depth) = (
        (image.height() as usize, image.width() as usize),
        deep_file::depth_of(&image),
    );
    let pixels = match image.color() {
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            let values = image.into_rgb16().into_raw();
            let values = values.into_iter();
            values.map(|value| value.to_be_bytes()[0]).collect()
        }
        ColorType::Rgb32F | ColorType::Rgba32F => {
            return Err(Error::format(
                path,
                "holds floating-point values, whose range is not known",
                "say it: data.range = \"dtype\" where they are from 0 to 1, else [low, high]",
            ));
        }
        _ => image.into_rgb8().into_raw(),
    };
    Ok(Sample::new(pixels, size, 3)?.stored_as(depth))
}

fn broken(path: &Path, what: String) -> Error {
    Error::format(path, what, "remove the file or save it again")
}

/// The longest side of an image in pixels.
const LONGEST_SIDE: u32 = 65_535;
/// The most bytes of what an image file holds beside its pixels, such as a packed colour profile. A larger profile is
/// not read.
const MOST_BESIDE: u64 = 32 << 20;
/// The most pixels of an image, unless `MIM_MAX_PIXELS` sets another number.
const MOST_PIXELS: u64 = 500_000_000;

fn most_pixels() -> Result<u64> {
    static MOST: OnceLock<Result<u64, String>> = OnceLock::new();
    let set = || match std::env::var("MIM_MAX_PIXELS") {
        Ok(text) => text.parse().map_err(|_| text),
        Err(_) => Ok(MOST_PIXELS),
    };
    MOST.get_or_init(set).clone().map_err(|text| {
        let (why, fix) = ("it is no whole number", "write 1000000000, for example");
        Error::config("environment", "MIM_MAX_PIXELS", text, why, fix)
    })
}

/// Refuses an image before it is unpacked: a small file can hold more pixels than any memory.
pub(super) fn check_size((width, height): (u32, u32), path: &Path) -> Result<()> {
    let (pixels, most) = (u64::from(width) * u64::from(height), most_pixels()?);
    if pixels <= most && width.max(height) <= LONGEST_SIDE {
        return Ok(());
    }
    let what = format!(
        "the image has {width}x{height} pixels; at most {most}, and {LONGEST_SIDE} a side, are read"
    );
    let fix = "save it smaller, or set MIM_MAX_PIXELS to a larger number";
    Err(Error::format(path, what, fix))
}

/// Decodes an image by its content, turned upright if asked for and noted.
///
/// # Errors
///
/// [`Error::Format`] if it cannot be decoded, is too large, or is a JPEG that is cut short.
pub(super) fn read(bytes: &[u8], path: &Path, turned: bool) -> Result<DynamicImage> {
    if is_cut_jpeg(bytes) {
        return Err(broken(path, "the JPEG is cut short".into()));
    }
    match read_whole(bytes, path, turned) {
        // Without its end a PNG may still have all its pixels.
        Err(_) if lacks_end(bytes) => read_whole(&[bytes, PNG_END].concat(), path, turned),
        image => image,
    }
}

fn read_whole(bytes: &[u8], path: &Path, turned: bool) -> Result<DynamicImage> {
    let undecoded = |error| match error {
        ImageError::Unsupported(error) => Error::format(
            path,
            format!("its kind of image cannot be decoded as RGB: {error}"),
            "save it as PNG or JPEG; data.range reads a TIFF of any channels",
        ),
        error => broken(path, format!("cannot be decoded: {error}")),
    };
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let mut reader = reader.map_err(Error::io("read", path))?;
    let mut opening = Limits::default();
    opening.max_alloc = Some(MOST_BESIDE);
    reader.limits(opening);
    let mut decoder = reader.into_decoder().map_err(undecoded)?;
    check_size(decoder.dimensions(), path)?;
    let mut limits = Limits::default();
    let limited = limits.reserve(decoder.total_bytes());
    limited
        .and_then(|()| decoder.set_limits(limits))
        .map_err(undecoded)?;
    // Damaged EXIF data say nothing about how to turn the image.
    let orientation = match turned {
        true => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        false => Orientation::NoTransforms,
    };
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecoded)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// The last chunk of a PNG.
const PNG_END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

/// Whether a PNG does not end with its last chunk.
fn lacks_end(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG") && !bytes.ends_with(PNG_END)
}

/// Whether a JPEG ends before the end marker of its picture: the decoder would fill the rest with grey and say nothing.
/// What follows that marker, such as the film of a motion photo, is not looked at.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    if !bytes.starts_with(&[0xff, 0xd8]) {
        return false;
    }
    let mut at = 2;
    loop {
        // The next marker: what is no marker, restarts within a scan and fill bytes are passed over.
        let rest = bytes.get(at..).unwrap_or_default();
        let is_marker =
            |pair: &[u8; 2]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff);
        let Some(found) = rest.array_windows().position(is_marker) else {
            return true;
        };
        at += found + 2;
        match bytes[at - 1] {
            END => return false,
            // The last bytes tell, so the scans of a whole picture need not be searched.
            SCAN if bytes.ends_with(&[0xff, END]) => return false,
            0x01 | 0xd8 => {}
            // A scan's own header has a length too; its data are passed over as no marker.
            0x02..=0xd7 | SCAN..=0xfe => match bytes.get(at..at + 2) {
                Some(length) => at += usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return true,
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A PNG of one pixel whose colour profile has so many zeros.
    fn with_profile(zeros: usize) -> Vec<u8> {
        let mut png = Cursor::new(Vec::new());
        let pixel = DynamicImage::new_rgb8(1, 1);
        pixel.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let mut png = png.into_inner();
        let mut packer =
            flate2::write::ZlibEncoder::new(b"iCCPa\0\0".to_vec(), flate2::Compression::best());
        packer.write_all(&vec![0; zeros]).unwrap();
        let profile = packer.finish().unwrap();
        let length = u32::try_from(profile.len() - 4).unwrap().to_be_bytes();
        let sum = crc32fast::hash(&profile).to_be_bytes();
        // After the signature and the header.
        png.splice(33..33, [&length[..], &profile, &sum].concat());
        png
    }

    #[test]
    fn the_size_of_a_profile_makes_no_image_unreadable() {
        for zeros in [1000, 40 << 20] {
            let image = read(&with_profile(zeros), Path::new("a.png"), false).unwrap();
            assert_eq!(image.into_rgb8().into_raw(), [0, 0, 0]);
        }
    }

    #[test]
    fn what_follows_a_jpeg_does_not_count() {
        let picture =
            b"\xff\xd8\xff\xe0\0\x06\xff\xd9\xff\xda\xff\xda\0\x04ab\x01\xff\0\xff\xd3\x02"
                .to_vec();
        assert!(is_cut_jpeg(&picture));
        let whole = [&picture[..], b"\xff\xd9"].concat();
        assert!(!is_cut_jpeg(&whole));
        assert!(!is_cut_jpeg(&[&whole[..], b"film \xff\xda\0\x0c"].concat()));
        for end in 3..picture.len() {
            assert!(is_cut_jpeg(&picture[..end]), "{end}");
        }
        assert!(!is_cut_jpeg(b"no JPEG"));
    }
}
