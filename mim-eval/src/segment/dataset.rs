//! Images with a class for each pixel.

use std::fmt;
use std::path::Path;

use mim_core::augment::Sample;
use mim_core::{Error, Result};

/// Images with masks, by index.
pub trait MaskedDataset: Send + Sync + fmt::Debug {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Image `index` with its mask.
    ///
    /// # Errors
    ///
    /// If one of them cannot be read, they differ in size, or `index` is not below [`Self::len`].
    fn read(&self, index: usize) -> Result<MaskedImage>;

    /// Name of image `index` in messages.
    fn name_of(&self, index: usize) -> String;
}

/// An image, and the class of each of its pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskedImage {
    pub(super) image: Sample,
    pub(super) mask: Vec<u8>,
}

impl MaskedImage {
    /// An image with its mask `[height, width]` of `size` = (height, width), in row-major order; `name` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the mask has another size than the image.
    pub fn new(
        image: Sample,
        (mask, size): (Vec<u8>, (usize, usize)),
        name: impl AsRef<Path>,
    ) -> Result<Self> {
        let (height, width) = image.size();
        if size != (height, width) || mask.len() != height * width {
            return Err(Error::format(
                name.as_ref(),
                format!(
                    "the mask has {}x{} pixels, but its image {height}x{width}",
                    size.0, size.1
                ),
                "give each image a mask of the same size, or remove both",
            ));
        }
        Ok(Self { image, mask })
    }

    /// The image.
    pub fn image(&self) -> &Sample {
        &self.image
    }

    /// The class of each pixel, in row-major order.
    pub fn mask(&self) -> &[u8] {
        &self.mask
    }
}
