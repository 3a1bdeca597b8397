//! Pictures of reconstructions.

use std::io::Cursor;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use font8x8::legacy::BASIC_LEGACY;
use image::imageops::{FilterType, replace, resize};
use image::{ImageFormat, Rgb, RgbImage};
use mim_core::{Error, Reconstruction, Result, files};

/// Small images are enlarged to at least this shorter side in pixels, to make room for headings.
const LEAST_SIDE: usize = 120;
/// Width in pixels of the line between the images of a triple and between rows.
const LINE: usize = 2;
/// Width in pixels of the space between triples.
const SPACE: usize = 8;
/// Colour of lines and spaces.
const WHITE: Rgb<u8> = Rgb([255; 3]);
/// Colour of headings.
const GREY: Rgb<u8> = Rgb([96; 3]);
/// Side in pixels of a letter.
pub(crate) const LETTER: usize = 8;
/// Height in pixels of the line of headings.
pub(crate) const HEAD: usize = LETTER + 6;
/// Headings of the columns of a triple.
const HEADINGS: [&str; 3] = ["original", "masked", "reconstruction"];

/// Draws up to `rows * columns` images as triples original | masked | reconstruction, row by row, under headings.
///
/// Values are clamped to `[0, 1]`. Small images are enlarged by a whole factor without smoothing; grey ones stay grey.
///
/// # Errors
///
/// [`Error::Shape`] if the three differ in shape, or hold no image;
/// [`Error::InvalidConfig`] if `rows` or `columns` is 0.
pub fn reconstruction_grid(
    reconstruction: &Reconstruction,
    rows: usize,
    columns: usize,
) -> Result<RgbImage> {
    if rows == 0 || columns == 0 {
        return Err(Error::config(
            "reconstruction grid",
            "rows, columns",
            format!("{rows}, {columns}"),
            "the picture would be empty",
            "use 1 or more for both",
        ));
    }
    let [count, height, width] = check(reconstruction)?;
    let scale = LEAST_SIDE.div_ceil(height.min(width));
    let (height, width) = (height * scale, width * scale);
    let count = count.min(rows.saturating_mul(columns));
    let (rows, columns) = (count.div_ceil(columns), count.min(columns));
    let (row, triple) = (height + LINE, 3 * width + 2 * LINE + SPACE);
    let (right, bottom) = (columns * triple - SPACE, HEAD + rows * row - LINE);
    let mut picture = RgbImage::from_pixel(pixels(right)?, pixels(bottom)?, WHITE);
    for place in 0..3 * columns {
        let left = place / 3 * triple + place % 3 * (width + LINE);
        write(&mut picture, HEADINGS[place % 3], left);
    }
    for index in 0..count {
        let parts = [
            &reconstruction.original,
            &reconstruction.masked,
            &reconstruction.reconstruction,
        ];
        for (place, part) in parts.into_iter().enumerate() {
            let image = image(&part.get(index)?)?;
            let image = resize(&image, pixels(width)?, pixels(height)?, FilterType::Nearest);
            let left = index % columns * triple + place * (width + LINE);
            let top = HEAD + index / columns * row;
            replace(
                &mut picture,
                &image,
                pixels(left)?.into(),
                pixels(top)?.into(),
            );
        }
    }
    Ok(picture)
}

/// Writes a heading starting at `left`.
pub(crate) fn write(picture: &mut RgbImage, text: &str, left: usize) {
    for (place, letter) in text.bytes().enumerate() {
        let rows = BASIC_LEGACY
            .get(usize::from(letter))
            .unwrap_or(&[0; LETTER]);
        for (y, row) in rows.iter().enumerate() {
            for x in (0..LETTER).filter(|x| row >> x & 1 == 1) {
                let (x, y) = (left + place * LETTER + x, y + 2);
                let at = (u32::try_from(x).ok(), u32::try_from(y).ok());
                if let (Some(x), Some(y)) = at
                    && let Some(pixel) = picture.get_pixel_mut_checked(x, y)
                {
                    *pixel = GREY;
                }
            }
        }
    }
}

/// Saves a picture as PNG, whole or not at all.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be written, [`Error::Format`] if the picture cannot be encoded.
pub fn save_png(picture: &RgbImage, path: &Path) -> Result<()> {
    let mut png = Cursor::new(Vec::new());
    picture
        .write_to(&mut png, ImageFormat::Png)
        .map_err(|error| {
            let what = format!("cannot be written as PNG: {error}");
            Error::format(path, what, "draw fewer rows or columns")
        })?;
    files::write(path, png.into_inner())
}

/// Count, height and width of the images.
fn check(reconstruction: &Reconstruction) -> Result<[usize; 3]> {
    let dims = reconstruction.original.dims();
    for part in [
        &reconstruction.original,
        &reconstruction.masked,
        &reconstruction.reconstruction,
    ] {
        let images = matches!(*part.dims(), [_, _, _, _]) && part.elem_count() > 0;
        if !images || part.dims() != dims {
            return Err(Error::shape(
                "images of a reconstruction",
                "three tensors of the same shape [batch, channels, height, width], none of them 0",
                (dims, part.dims()),
                "pass the result of Method::reconstruct",
            ));
        }
    }
    Ok([dims[0], dims[2], dims[3]])
}

/// The picture of `[channels, height, width]` values in `[0, 1]`. Of more than three channels it shows the first three,
/// of two channels the first.
pub(crate) fn image(values: &Tensor) -> Result<RgbImage> {
    let (channels, height, width) = values.dims3()?;
    let values = &values.narrow(0, 0, if channels < 3 { 1 } else { 3 })?;
    let values = values.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let bytes = (values.clamp(0f32, 1f32)? * 255.)?
        .round()?
        .to_dtype(DType::U8)?;
    let bytes = bytes.broadcast_as((3, height, width))?.permute((1, 2, 0))?;
    let bytes = bytes.flatten_all()?.to_vec1()?;
    RgbImage::from_raw(pixels(width)?, pixels(height)?, bytes).ok_or_else(|| {
        Error::shape(
            "image of a reconstruction",
            "3 bytes per pixel",
            values.dims(),
            "pass the result of Method::reconstruct",
        )
    })
}

/// A length in the integer type of pictures.
pub(crate) fn pixels(length: usize) -> Result<u32> {
    u32::try_from(length).map_err(|_| {
        Error::shape(
            "size of the picture",
            "less than 2^32 pixels per side",
            length,
            "draw fewer rows or columns",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images `[count, channels, 2, 3]` that are black, but for one value at the top right.
    fn plain(count: usize, channels: usize, value: f32) -> Tensor {
        let mut values = vec![0.; count * channels * 6];
        values
            .iter_mut()
            .skip(2)
            .step_by(6)
            .for_each(|v| *v = value);
        Tensor::from_vec(values, (count, channels, 2, 3), &Device::Cpu).unwrap()
    }

    fn triples(count: usize, channels: usize) -> Reconstruction {
        Reconstruction {
            original: plain(count, channels, 1.),
            masked: plain(count, channels, 0.5),
            reconstruction: plain(count, channels, 7.),
        }
    }

    #[test]
    fn triples_are_enlarged_in_rows_with_lines_and_headings() {
        // Enlarged 60-fold: 120 x 180 pixels per image.
        let picture = reconstruction_grid(&triples(3, 1), 5, 2).unwrap();
        assert_eq!(
            picture.dimensions(),
            (2 * (3 * 180 + 4) + 8, 14 + 2 * 120 + 2)
        );
        let at = |x: u32, y: u32| picture.get_pixel(x, y + 14).0;
        assert_eq!(at(0, 0), [0; 3]);
        assert_eq!(at(119, 59), [0; 3]);
        assert_eq!(at(120, 0), [255; 3]);
        assert_eq!(at(179, 59), [255; 3]);
        assert_eq!(at(179, 60), [0; 3]);
        assert_eq!(at(181, 62), [255; 3], "line");
        assert_eq!(at(182, 62), [0; 3]);
        assert_eq!(at(182 + 120, 59), [128; 3]);
        assert_eq!(at(2 * 182 + 120, 59), [255; 3], "clamped");
        assert_eq!(at(548, 62), [255; 3], "space");
        assert_eq!(at(552, 62), [0; 3]);
        assert_eq!(at(10, 121), [255; 3], "line between rows");
        assert_eq!(at(10, 122), [0; 3]);
        assert_eq!(at(740, 190), [255; 3], "no fourth image");
        let letters = |left: u32, right: u32| {
            (left..right)
                .flat_map(|x| (0..14).map(move |y| (x, y)))
                .filter(|&(x, y)| picture.get_pixel(x, y).0 == [96; 3])
                .count()
        };
        // 8, 6 and 14 letters of 8 pixels are above the three columns, and nothing next to them.
        for (left, text) in [(0u32, 8u32 * 8), (182, 6 * 8), (364, 14 * 8), (552, 8 * 8)] {
            assert!(letters(left, left + text) > 50, "{left}");
            assert_eq!(letters(left + text, left + 120), 0, "{left}");
        }
    }

    #[test]
    fn colours_are_kept_and_large_images_are_not_enlarged() {
        let red = [1f32, 0.2, 0.].repeat(100 * 120);
        let red = Tensor::from_vec(red, (1, 100, 120, 3), &Device::Cpu).unwrap();
        let red = red.permute((0, 3, 1, 2)).unwrap();
        let picture = reconstruction_grid(
            &Reconstruction {
                original: red.clone(),
                masked: red.clone(),
                reconstruction: red,
            },
            1,
            1,
        )
        .unwrap();
        assert_eq!(picture.dimensions(), (3 * 240 + 4, 14 + 200));
        assert_eq!(picture.get_pixel(50, 50).0, [255, 51, 0]);
    }

    #[test]
    fn saves_readable_files_and_names_unwritable_paths() {
        let folder = tempfile::tempdir().unwrap();
        let picture = reconstruction_grid(&triples(1, 3), 1, 1).unwrap();
        let path = folder.path().join("grid.png");
        save_png(&picture, &path).unwrap();
        assert_eq!(image::open(&path).unwrap().into_rgb8(), picture);
        let missing = folder.path().join("missing").join("grid.png");
        let error = save_png(&picture, &missing).unwrap_err();
        assert!(matches!(error, Error::Io { .. }));
        assert!(error.to_string().contains("grid.png"), "{error}");
    }

    #[test]
    fn refuses_mismatched_images_and_empty_grids() {
        let mut odd = triples(2, 1);
        odd.masked = plain(2, 3, 0.);
        let error = reconstruction_grid(&odd, 1, 1).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        // Of other channels some are drawn.
        for channels in [2, 12] {
            assert!(reconstruction_grid(&triples(1, channels), 1, 1).is_ok());
        }
        assert!(reconstruction_grid(&triples(1, 1), 0, 1).is_err());
    }
}
