//! The excerpt of Fashion-MNIST inside the library: 100 training and 50 test images of each of ten classes.
//!
//! Xiao et al., arXiv:1708.07747; MIT licence, in `data/fashion-mnist-mini/COPYRIGHT`.

use std::path::Path;

use super::{MemoryDataset, Split, idx};
use crate::{Error, Result};

/// What to do where a data set is made of training and test images.
pub(super) const TWO: &str = "this data set has train and test";

macro_rules! file {
    ($name:literal) => {
        (
            concat!("embedded/", $name),
            include_bytes!(concat!("../../data/fashion-mnist-mini/", $name)).as_slice(),
        )
    };
}

/// Opens a split of the excerpt.
pub(super) fn open(split: Split) -> Result<MemoryDataset> {
    let (images, labels) = match split {
        Split::Train => (
            file!("train-images-idx3-ubyte.gz"),
            file!("train-labels-idx1-ubyte.gz"),
        ),
        Split::Val => return Err(Error::no_split("the embedded images", split, TWO)),
        Split::Test => (
            file!("t10k-images-idx3-ubyte.gz"),
            file!("t10k-labels-idx1-ubyte.gz"),
        ),
    };
    let path = Path::new(labels.0);
    let values = idx::labels(path, labels.1)?;
    idx::images(Path::new(images.0), images.1)?.with_labels(values, 10, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;

    #[test]
    fn classes_are_balanced() {
        for (split, count) in [(Split::Train, 100), (Split::Test, 50)] {
            let dataset = open(split).unwrap();
            assert_eq!(dataset.len(), 10 * count);
            let mut counts = [0; 10];
            for index in 0..dataset.len() {
                counts[dataset.label(index).unwrap() as usize] += 1;
            }
            assert_eq!(counts, [count; 10]);
            assert_eq!(dataset.read(0).unwrap().size(), (28, 28));
        }
    }
}
