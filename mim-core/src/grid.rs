//! Grids of patches.

use crate::{Error, Result};

/// Rows and columns of patches; token `row * cols + col` is the patch at (`row`, `col`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PatchGrid {
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub cols: usize,
}

impl PatchGrid {
    /// A grid of `rows` x `cols` patches.
    pub fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols }
    }

    /// The grid of `patch`-pixel patches over an image of (height, width) pixels.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a side is not a multiple of the patch size.
    pub fn of_image((height, width): (usize, usize), patch: usize) -> Result<Self> {
        if patch == 0
            || height == 0
            || width == 0
            || !height.is_multiple_of(patch)
            || !width.is_multiple_of(patch)
        {
            return Err(Error::config(
                "patch grid",
                "image_size",
                format!("{height}x{width}"),
                format!("both sides must be positive multiples of the patch size {patch}"),
                "change image_size or patch_size",
            ));
        }
        Ok(Self::new(height / patch, width / patch))
    }

    /// Number of patches.
    #[expect(clippy::len_without_is_empty, reason = "a grid is never empty")]
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// How many cells of `finer` each cell of this grid covers along each axis.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `finer` is not a whole multiple with the same factor on both axes.
    pub fn scale_to(&self, finer: PatchGrid) -> Result<usize> {
        let scale = finer.rows / self.rows.max(1);
        if scale == 0 || self.rows * scale != finer.rows || self.cols * scale != finer.cols {
            return Err(Error::shape(
                "patch grid upsampling",
                format!("a whole multiple of {}x{}", self.rows, self.cols),
                format!("{}x{}", finer.rows, finer.cols),
                "choose a mask unit that is a multiple of the patch size",
            ));
        }
        Ok(scale)
    }
}

impl std::fmt::Display for PatchGrid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_square_images_have_non_square_grids() {
        assert_eq!(
            PatchGrid::of_image((32, 48), 16).unwrap(),
            PatchGrid::new(2, 3)
        );
    }

    #[test]
    fn refuses_an_image_that_is_not_a_multiple_of_the_patch() {
        let error = PatchGrid::of_image((30, 32), 4).unwrap_err().to_string();
        assert!(
            error.contains("30x32") && error.contains("patch size 4"),
            "{error}"
        );
    }
}
