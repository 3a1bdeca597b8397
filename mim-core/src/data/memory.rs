//! Small data sets held in memory.

use std::path::Path;

use super::Dataset;
use crate::augment::{Depth, Sample};
use crate::{Error, Result};

/// Images of one size, each interleaved, one after another.
#[derive(Clone)]
pub struct MemoryDataset {
    pixels: Vec<u8>,
    size: (usize, usize),
    channels: usize,
    labels: Vec<u32>,
    classes: usize,
}

impl MemoryDataset {
    /// Images `[len, height, width, channels]` with `size` = (height, width). Images whose channels are not 1 or 3 are
    /// read as deep images.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if there is no image, or the bytes are not whole images.
    pub fn new(pixels: Vec<u8>, size: (usize, usize), channels: usize) -> Result<Self> {
        let image = size.0 * size.1 * channels;
        if image == 0 || pixels.is_empty() || !pixels.len().is_multiple_of(image) {
            return Err(Error::shape(
                "images in memory",
                format!("whole images of {size:?} pixels"),
                format!("{} bytes for {channels} channels", pixels.len()),
                "pass [len, height, width, channels] bytes",
            ));
        }
        Ok(Self {
            pixels,
            size,
            channels,
            labels: vec![],
            classes: 0,
        })
    }

    /// The same images with one label for each, all below `classes`. `path` names the labels in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the number of labels differs or one is out of range.
    pub fn with_labels(mut self, labels: Vec<u32>, classes: usize, path: &Path) -> Result<Self> {
        if labels.len() != self.len() {
            return Err(Error::format(
                path,
                format!("{} labels for {} images", labels.len(), self.len()),
                "take images and labels of the same split and download",
            ));
        }
        if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
            return Err(Error::format(
                path,
                format!("label {label} among {classes} classes"),
                "check that the file holds labels, or download it again",
            ));
        }
        (self.labels, self.classes) = (labels, classes);
        Ok(self)
    }
}

impl Dataset for MemoryDataset {
    fn len(&self) -> usize {
        self.pixels.len() / (self.size.0 * self.size.1 * self.channels)
    }

    fn read(&self, index: usize) -> Result<Sample> {
        let image = self.size.0 * self.size.1 * self.channels;
        let bytes = self.pixels.chunks_exact(image).nth(index).ok_or_else(|| {
            Error::shape(
                "image index",
                format!("below {}", self.len()),
                index,
                "take indices from a sampler over this data set",
            )
        })?;
        if matches!(self.channels, 1 | 3) {
            return Sample::new(bytes.to_vec(), self.size, self.channels);
        }
        let values = bytes.iter().map(|byte| f32::from(*byte) / 255.).collect();
        Ok(Sample::of_values(values, self.size, self.channels)?.stored_as(Depth::U8))
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied()
    }

    fn classes(&self) -> usize {
        self.classes
    }
}

impl std::fmt::Debug for MemoryDataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDataset")
            .field("len", &self.len())
            .field("size", &self.size)
            .field("channels", &self.channels)
            .field("classes", &self.classes)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_must_match_the_images() {
        let images = MemoryDataset::new(vec![7; 8], (2, 2), 1).unwrap();
        let path = Path::new("labels");
        assert!(images.clone().with_labels(vec![0], 1, path).is_err());
        assert!(images.clone().with_labels(vec![0, 2], 2, path).is_err());
        let labelled = images.with_labels(vec![0, 1], 2, path).unwrap();
        assert_eq!((labelled.len(), labelled.label(1)), (2, Some(1)));
        assert!(labelled.read(2).is_err());
    }

    #[test]
    fn two_channels_are_read_as_values() {
        let images = MemoryDataset::new(vec![0, 51, 255, 0], (1, 1), 2).unwrap();
        let second = images.read(1).unwrap();
        assert_eq!((images.len(), second.values()), (2, &[1., 0.][..]));
        assert!(MemoryDataset::new(vec![0; 3], (1, 1), 2).is_err());
    }
}
