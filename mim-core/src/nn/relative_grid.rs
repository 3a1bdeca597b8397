//! Position of one view inside another.

use crate::{Crop, Error, PatchGrid, Result};

/// Factor that scales log scales to the range of coordinates.
const LOG_SCALE: f32 = 10.;

/// Positions and size of the patches of a second view in a first view of the same image, in patches of the first.
///
/// Crops are (i top, j left, h, w), each in the frame after its view's own flip, and both views have
/// a grid of `R` by `C` patches. Then patch (r, c) of the second view is centred at row
/// `h2/h1 (r + 1/2) + (i2 - i1)/h1 R - 1/2` and column `w2/w1 (c + 1/2) + (j2 - j1)/w1 C - 1/2`,
/// or `-w2/w1 (c + 1/2) + (W - j1 - j2)/w1 C - 1/2` if exactly one view is mirrored (`W` is the
/// width of the image). Equal crops give (r, c). Computed in f32.
///
/// Tao et al., CVPR 2023, Sec. 3.2; OpenGVLab/Siamese-Image-Modeling @ bbdec30, `util/pos_embed.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct RelativeGrid {
    /// For each row of patches of the second view, its row in the first.
    pub rows: Vec<f32>,
    /// For each column of patches of the second view, its column in the first.
    pub cols: Vec<f32>,
    /// Ten times the logarithm of the ratio of heights, second over first, and of widths.
    pub log_scale: [f32; 2],
}

impl RelativeGrid {
    /// The grid of `second` in `first`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if a crop is empty, or if the crops belong to images of different size.
    pub fn new(first: &Crop, second: &Crop, grid: PatchGrid) -> Result<Self> {
        let source = |crop: &Crop| (crop.source_height, crop.source_width);
        let bad = |expected: String| {
            let fix = "make both views from one image, and record their crops";
            Error::shape(
                "crops of two views",
                expected,
                format!("{first:?} and {second:?}"),
                fix,
            )
        };
        if source(first) != source(second) {
            return Err(bad("images of equal size".to_owned()));
        }
        for side in [first.height, first.width, second.height, second.width] {
            if side.is_nan() || side <= 0. {
                return Err(bad("positive heights and widths".to_owned()));
            }
        }
        let scale = [second.height / first.height, second.width / first.width];
        let top = (second.top - first.top) / first.height;
        let (turned, left) = match first.flipped == second.flipped {
            true => (scale[1], (second.left - first.left) / first.width),
            false => {
                let right = first.source_width as f32 - first.left - second.left;
                (-scale[1], right / first.width)
            }
        };
        let places = |count: usize, scale: f32, shift: f32| {
            let place = |index: usize| scale * (index as f32 + 0.5) + shift * count as f32 - 0.5;
            (0..count).map(place).collect()
        };
        Ok(Self {
            rows: places(grid.rows, scale[0], top),
            cols: places(grid.cols, turned, left),
            log_scale: scale.map(|scale| LOG_SCALE * scale.ln()),
        })
    }

    /// Appends `[tokens, 2 dim]` sines and cosines: row, column, log height and log width get a quarter each.
    ///
    /// A quarter is `[sin(p w) | cos(p w)]` with `w_k = 10000^(-k / (dim / 4))`; `dim` is a multiple of 4.
    pub fn append_sincos(&self, dim: usize, values: &mut Vec<f32>) {
        #[expect(clippy::cast_possible_truncation, reason = "the values are f32")]
        let frequencies: Vec<f32> = (0..dim / 4)
            .map(|k| 10_000f64.powf(-(k as f64) / (dim / 4) as f64) as f32)
            .collect();
        let waves = |place: &f32| -> Vec<f32> {
            let angles = frequencies.iter().map(|frequency| place * frequency);
            angles
                .clone()
                .map(f32::sin)
                .chain(angles.map(f32::cos))
                .collect()
        };
        let cols: Vec<_> = self.cols.iter().map(waves).collect();
        let size = self.log_scale.each_ref().map(waves).concat();
        for row in self.rows.iter().map(waves) {
            for col in &cols {
                values.extend(row.iter().chain(col).chain(&size));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRID: PatchGrid = PatchGrid { rows: 2, cols: 4 };

    fn crop([top, left, height, width]: [f32; 4], flipped: bool) -> Crop {
        Crop {
            top,
            left,
            height,
            width,
            flipped,
            ..Crop::whole((40, 60))
        }
    }

    #[test]
    fn equal_crops_give_the_patch_positions() {
        for flipped in [false, true] {
            let same = crop([3., 7., 20., 24.], flipped);
            let grid = RelativeGrid::new(&same, &same, GRID).unwrap();
            assert_eq!(grid.rows, [0., 1.]);
            assert_eq!(grid.cols, [0., 1., 2., 3.]);
            assert_eq!(grid.log_scale, [0., 0.]);
        }
    }

    #[test]
    fn the_mirrored_region_runs_backwards() {
        // Columns 8..32 from the left are 28..52 in the mirrored image.
        let (plain, mirrored) = (
            crop([0., 8., 20., 24.], false),
            crop([0., 28., 20., 24.], true),
        );
        for (first, second) in [(&plain, &mirrored), (&mirrored, &plain)] {
            let grid = RelativeGrid::new(first, second, GRID).unwrap();
            assert_eq!(grid.cols, [3., 2., 1., 0.]);
            assert_eq!(grid.rows, [0., 1.]);
        }
    }

    #[test]
    fn offsets_and_scales_are_in_patches_of_the_first_view() {
        // The second view is the upper half of the first, and begins a quarter of its width further right.
        let (first, second) = (
            crop([10., 20., 20., 16.], false),
            crop([10., 24., 10., 16.], false),
        );
        let grid = RelativeGrid::new(&first, &second, GRID).unwrap();
        assert_eq!(grid.rows, [-0.25, 0.25]);
        assert_eq!(grid.cols, [1., 2., 3., 4.]);
        assert_eq!(grid.log_scale, [-10. * 2f32.ln(), 0.]);
    }

    #[test]
    fn sines_and_cosines_are_ordered_by_row_column_and_size() {
        let place = RelativeGrid {
            rows: vec![1.],
            cols: vec![2., 3.],
            log_scale: [4., 5.],
        };
        let mut values = vec![];
        place.append_sincos(4, &mut values);
        let wanted = [1f32, 2., 4., 5., 1., 3., 4., 5.].map(|p| [p.sin(), p.cos()]);
        assert_eq!(values, wanted.concat());
    }

    #[test]
    fn refuses_empty_crops_and_other_images() {
        let good = crop([0., 0., 20., 20.], false);
        for height in [0., -1., f32::NAN] {
            let empty = Crop { height, ..good };
            let error = RelativeGrid::new(&empty, &good, GRID).unwrap_err();
            assert!(error.to_string().contains("positive"), "{error}");
        }
        let other = Crop {
            source_width: 61,
            ..good
        };
        let error = RelativeGrid::new(&good, &other, GRID).unwrap_err();
        assert!(error.to_string().contains("equal size"), "{error}");
    }

    proptest! {
        /// The centre of a patch in the image is the same, computed through either view.
        #[test]
        fn centres_agree_in_the_image(
            boxes in prop::array::uniform2((0f32..20., 0f32..30., 4f32..20., 4f32..30., any::<bool>())),
        ) {
            let [first, second] =
                boxes.map(|(top, left, height, width, flipped)| crop([top, left, height, width], flipped));
            let grid = RelativeGrid::new(&first, &second, GRID).unwrap();
            let column = |crop: &Crop, col: f32| {
                let x = crop.left + (col + 0.5) / GRID.cols as f32 * crop.width;
                if crop.flipped { 60. - x } else { x }
            };
            let row = |crop: &Crop, row: f32| crop.top + (row + 0.5) / GRID.rows as f32 * crop.height;
            for (index, col) in grid.cols.iter().enumerate() {
                prop_assert!((column(&first, *col) - column(&second, index as f32)).abs() < 1e-3);
            }
            for (index, place) in grid.rows.iter().enumerate() {
                prop_assert!((row(&first, *place) - row(&second, index as f32)).abs() < 1e-3);
            }
        }
    }
}
