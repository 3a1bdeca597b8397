//! Image sizes in configs.

use serde::{Deserialize, Serialize};

/// Height and width in pixels; a config gives one number for a square, or `[height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "ImageSizeRepr", into = "ImageSizeRepr")]
pub struct ImageSize {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a size is one number, or [height, width]")]
enum ImageSizeRepr {
    Square(usize),
    Pair([usize; 2]),
}

impl From<ImageSizeRepr> for ImageSize {
    fn from(repr: ImageSizeRepr) -> Self {
        match repr {
            ImageSizeRepr::Square(side) => side.into(),
            ImageSizeRepr::Pair([height, width]) => Self { height, width },
        }
    }
}

impl From<ImageSize> for ImageSizeRepr {
    fn from(size: ImageSize) -> Self {
        if size.height == size.width {
            Self::Square(size.height)
        } else {
            Self::Pair([size.height, size.width])
        }
    }
}

impl From<usize> for ImageSize {
    fn from(side: usize) -> Self {
        Self {
            height: side,
            width: side,
        }
    }
}

impl From<ImageSize> for (usize, usize) {
    fn from(size: ImageSize) -> Self {
        (size.height, size.width)
    }
}

impl std::fmt::Display for ImageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_number_or_two() {
        assert_eq!(
            serde_json::from_str::<ImageSize>("32").unwrap(),
            ImageSize::from(32)
        );
        let wide = ImageSize {
            height: 32,
            width: 64,
        };
        assert_eq!(serde_json::from_str::<ImageSize>("[32, 64]").unwrap(), wide);
        assert_eq!(serde_json::to_string(&wide).unwrap(), "[32,64]");
        assert!(
            serde_json::from_str::<ImageSize>("\"big\"")
                .unwrap_err()
                .to_string()
                .contains("[height, width]")
        );
    }
}
