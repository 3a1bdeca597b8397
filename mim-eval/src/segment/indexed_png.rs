//! Masks in PNG files: the value of a pixel is its class.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use mim_core::{Error, Result};
use png::{BitDepth, ColorType, Decoder, Transformations};

use super::axis::Size;

const FIX: &str =
    "save masks as PNG with one value per pixel, grey or palette index, of at most 8 bits";

/// Reads a mask: its raw values `[height, width]`, which may be palette indices, and its size.
pub(super) fn read(path: &Path) -> Result<(Vec<u8>, Size)> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let broken = |error: png::DecodingError| {
        Error::format(path, format!("is not a readable PNG: {error}"), FIX)
    };
    let mut decoder = Decoder::new(BufReader::new(file));
    // Raw values: no palette look-up, and no stretching of grey to 8 bits.
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(broken)?;
    let (color, depth) = (reader.info().color_type, reader.info().bit_depth);
    let wrong = |what: &str| {
        Err(Error::format(
            path,
            format!("{what}, which cannot be classes"),
            FIX,
        ))
    };
    match (color, depth) {
        (_, BitDepth::Sixteen) => return wrong("has 16-bit values"),
        (ColorType::Grayscale | ColorType::Indexed, _) => {}
        (ColorType::GrayscaleAlpha, _) => return wrong("has grey values and transparency"),
        _ => return wrong("has colours (RGB)"),
    }
    let too_large = || Error::format(path, "is too large to be read", FIX);
    let mut bytes = vec![0; reader.output_buffer_size().ok_or_else(too_large)?];
    let frame = reader.next_frame(&mut bytes).map_err(broken)?;
    let (height, width) = (frame.height as usize, frame.width as usize);
    let bits = depth as usize;
    let lines = bytes.chunks_exact(frame.line_size.max(1)).take(height);
    let values = lines.flat_map(|line| unpacked(line, bits).take(width));
    Ok((values.collect(), (height, width)))
}

/// Unpacks values of `bits` (1, 2, 4 or 8) bits; the first is in the highest bits of its byte.
fn unpacked(line: &[u8], bits: usize) -> impl Iterator<Item = u8> {
    let in_byte = 8 / bits;
    let all = u8::MAX >> (8 - bits);
    line.iter()
        .flat_map(move |byte| (1..=in_byte).map(move |place| byte >> (8 - place * bits) & all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(color: ColorType, depth: BitDepth, line: &[u8]) -> Result<(Vec<u8>, Size)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.png");
        let file = File::create(&path).unwrap();
        let mut encoder = png::Encoder::new(file, 3, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette(vec![200; 3 * 16]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(line).unwrap();
        writer.finish().unwrap();
        read(&path)
    }

    #[test]
    fn raw_values_are_read() {
        let three = |values: [u8; 3]| (values.to_vec(), (1, 3));
        let read = |color, depth, line: &[u8]| written(color, depth, line).unwrap();
        let grey = read(ColorType::Grayscale, BitDepth::Eight, &[0, 7, 255]);
        assert_eq!(grey, three([0, 7, 255]));
        let palette = read(ColorType::Indexed, BitDepth::Eight, &[15, 1, 2]);
        assert_eq!(palette, three([15, 1, 2]));
        let four = read(ColorType::Indexed, BitDepth::Four, &[0x3c, 0x50]);
        assert_eq!(four, three([3, 12, 5]));
        let one = read(ColorType::Grayscale, BitDepth::One, &[0b1010_0000]);
        assert_eq!(one, three([1, 0, 1]));
    }

    #[test]
    fn colours_and_16_bit_values_are_refused() {
        for (color, depth, bytes, what) in [
            (ColorType::Rgb, BitDepth::Eight, 9, "colours (RGB)"),
            (ColorType::Grayscale, BitDepth::Sixteen, 6, "16-bit values"),
            (
                ColorType::GrayscaleAlpha,
                BitDepth::Eight,
                6,
                "transparency",
            ),
        ] {
            let error = written(color, depth, &vec![1; bytes])
                .unwrap_err()
                .to_string();
            assert!(error.contains(what) && error.contains("palette"), "{error}");
        }
        let error = read(Path::new("none.png")).unwrap_err().to_string();
        assert!(error.contains("none.png"), "{error}");
    }
}
