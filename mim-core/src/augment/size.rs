//! Sizes as recipes give them.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One number or `[height, width]`, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a size is a whole number of pixels or [height, width]"
)]
pub enum Size {
    /// One side: a square for crops, the shorter side for [`super::Resize`].
    Side(usize),
    /// Height and width.
    HeightWidth([usize; 2]),
}

impl Size {
    /// Height and width of a crop. One number stands for a square.
    pub fn square(self) -> (usize, usize) {
        match self {
            Self::Side(side) => (side, side),
            Self::HeightWidth([height, width]) => (height, width),
        }
    }

    /// Height and width to resize an image of `(height, width)` to. One number is the shorter side; the aspect ratio is
    /// kept, and the longer side is rounded down.
    pub fn shorter_side(self, (height, width): (usize, usize)) -> (usize, usize) {
        match self {
            Self::Side(side) if width <= height => (side * height / width.max(1), side),
            Self::Side(side) => (side, side * width / height.max(1)),
            Self::HeightWidth([height, width]) => (height, width),
        }
    }

    /// Checks that neither side is 0 or longer than any image's.
    pub(super) fn check(self, component: &'static str) -> Result<()> {
        let (height, width) = self.square();
        if (1..=65_535).contains(&height) && (1..=65_535).contains(&width) {
            return Ok(());
        }
        Err(Error::config(
            component,
            "size",
            format!("{height}x{width}"),
            "both sides must be from 1 to 65535 pixels",
            "give a size such as 224 or [224, 224]",
        ))
    }
}

impl Default for Size {
    /// 224 pixels, the size of nearly every recipe.
    fn default() -> Self {
        Self::Side(224)
    }
}

impl From<usize> for Size {
    fn from(side: usize) -> Self {
        Self::Side(side)
    }
}

impl From<(usize, usize)> for Size {
    fn from((height, width): (usize, usize)) -> Self {
        Self::HeightWidth([height, width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_is_the_shorter_side_of_either_orientation() {
        assert_eq!(Size::Side(256).shorter_side((375, 500)), (256, 341));
        assert_eq!(Size::Side(256).shorter_side((500, 375)), (341, 256));
        assert_eq!(Size::from((10, 20)).shorter_side((500, 375)), (10, 20));
    }
}
