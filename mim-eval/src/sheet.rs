//! Sheets of images: one row per image, one column per kind of picture.

use candle_core::Tensor;
use image::imageops::{FilterType, replace, resize};
use image::{Rgb, RgbImage};
use mim_core::{Error, Result};

use crate::picture::{HEAD, LETTER, image, pixels, write};

/// Small images are enlarged to at least this side in pixels.
const LEAST_SIDE: usize = 96;
/// Width in pixels of the space between images.
const SPACE: usize = 4;
const WHITE: Rgb<u8> = Rgb([255; 3]);

/// Draws columns of images under their headings.
///
/// A column is `[count, channels, height, width]` in `[0, 1]`; sizes may differ between columns. Small images are
/// enlarged by a whole factor without smoothing.
///
/// # Errors
///
/// [`Error::Shape`] if there are no columns, or if counts differ.
pub fn sheet(columns: &[(String, Tensor)]) -> Result<RgbImage> {
    let count = columns
        .first()
        .map_or(0, |(_, images)| images.dims().first().copied().unwrap_or(0));
    let mut sizes = Vec::new();
    for (name, images) in columns {
        let &[found, _, height, width] = images.dims() else {
            return Err(wrong(name, images));
        };
        if found != count || images.elem_count() == 0 {
            return Err(wrong(name, images));
        }
        let scale = LEAST_SIDE.div_ceil(height.min(width));
        sizes.push((height * scale, width * scale));
    }
    if columns.is_empty() {
        let (expected, fix) = ("one column or more", "pass images to draw");
        return Err(Error::shape("sheet", expected, 0, fix));
    }
    let row = sizes
        .iter()
        .map(|(height, _)| height + SPACE)
        .max()
        .unwrap_or(0);
    // A heading can be wider than its images.
    let widths = columns.iter().zip(&sizes);
    let widths: Vec<usize> = widths
        .map(|((name, _), (_, width))| (*width).max(name.len() * LETTER) + SPACE)
        .collect();
    let (right, bottom) = (
        widths.iter().sum::<usize>() - SPACE,
        HEAD + count * row - SPACE,
    );
    let mut picture = RgbImage::from_pixel(pixels(right)?, pixels(bottom)?, WHITE);
    let mut left = 0;
    for (((name, images), (height, width)), step) in columns.iter().zip(sizes).zip(widths) {
        write(&mut picture, name, left);
        for index in 0..count {
            let own = image(&images.get(index)?)?;
            let own = resize(&own, pixels(width)?, pixels(height)?, FilterType::Nearest);
            let top = pixels(HEAD + index * row)?;
            replace(&mut picture, &own, pixels(left)?.into(), top.into());
        }
        left += step;
    }
    Ok(picture)
}

fn wrong(name: &str, images: &Tensor) -> Error {
    Error::shape(
        format!("column `{name}` of a sheet"),
        "[count, channels, height, width] with the number of images of the first column",
        images.dims(),
        "use the same images in each column",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn black(count: usize, channels: usize, side: usize) -> Tensor {
        Tensor::zeros((count, channels, side, side), DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn columns_of_different_sizes_are_side_by_side() {
        let columns = [
            ("a".to_owned(), black(2, 3, 96)),
            ("local crop 1".to_owned(), black(2, 1, 32)),
        ];
        let picture = sheet(&columns).unwrap();
        // The second heading is as wide as its images.
        assert_eq!(picture.dimensions(), (96 + 4 + 96, 14 + 2 * 100 - 4));
        assert_eq!(picture.get_pixel(0, 14).0, [0; 3]);
        assert_eq!(picture.get_pixel(97, 14).0, [255; 3]);
        assert_eq!(picture.get_pixel(100, 14 + 100).0, [0; 3]);
    }

    #[test]
    fn other_counts_and_no_columns_are_refused() {
        assert!(sheet(&[]).is_err());
        let columns = [
            ("a".to_owned(), black(2, 3, 8)),
            ("b".to_owned(), black(1, 3, 8)),
        ];
        let error = sheet(&columns).unwrap_err().to_string();
        assert!(error.contains("column `b`"), "{error}");
    }
}
