//! CIFAR-10 and CIFAR-100, as folders of their binary versions.
//!
//! A record is one label byte (CIFAR-100: coarse, then fine) and 3 x 32 x 32 bytes, planes of red, green and blue
//! (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

use std::path::{Path, PathBuf};

use super::embedded::TWO;
use super::{MemoryDataset, Split};
use crate::{Error, Result, files};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// One of the two data sets as files of a split.
struct Release {
    classes: usize,
    label_bytes: usize,
    files: Vec<PathBuf>,
}

impl Release {
    fn find(folder: &Path, split: Split) -> Option<Self> {
        let existing = |names: &[&str]| -> Vec<PathBuf> {
            let paths = names.iter().map(|name| folder.join(name));
            paths.filter(|path| path.is_file()).collect()
        };
        let (ten, hundred) = match split {
            Split::Train => (
                existing(&[
                    "data_batch_1.bin",
                    "data_batch_2.bin",
                    "data_batch_3.bin",
                    "data_batch_4.bin",
                    "data_batch_5.bin",
                ]),
                existing(&["train.bin"]),
            ),
            Split::Test => (existing(&["test_batch.bin"]), existing(&["test.bin"])),
            Split::Val => (vec![], vec![]),
        };
        let (classes, label_bytes, files) = if ten.is_empty() {
            (100, 2, hundred)
        } else {
            (10, 1, ten)
        };
        (!files.is_empty()).then_some(Self {
            classes,
            label_bytes,
            files,
        })
    }
}

/// Whether the folder holds records of either split.
pub(super) fn recognises(folder: &Path) -> bool {
    [Split::Train, Split::Test]
        .iter()
        .any(|split| Release::find(folder, *split).is_some())
}

/// Opens a split; CIFAR-100 with its fine labels.
pub(super) fn open(folder: &Path, split: Split) -> Result<MemoryDataset> {
    let release = Release::find(folder, split).ok_or_else(|| {
        let fix = match split {
            Split::Train => {
                "unpack data_batch_1.bin ... 5.bin of CIFAR-10 or train.bin of CIFAR-100 into it"
            }
            Split::Val => TWO,
            Split::Test => "unpack test_batch.bin of CIFAR-10 or test.bin of CIFAR-100 into it",
        };
        Error::no_split(folder.display(), split, fix)
    })?;
    let (mut pixels, mut labels) = (vec![], vec![]);
    for path in &release.files {
        let bytes = files::read(path)?;
        let record = release.label_bytes + 3 * PLANE;
        if bytes.is_empty() || bytes.len() % record != 0 {
            return Err(Error::format(
                path,
                format!("{} bytes are not whole records of {record}", bytes.len()),
                "download the binary version again",
            ));
        }
        for record in bytes.chunks_exact(record) {
            let (label, planes) = record.split_at(release.label_bytes);
            labels.extend(label.last().map(|label| u32::from(*label)));
            let pixel = |at: usize| [planes[at], planes[at + PLANE], planes[at + 2 * PLANE]];
            pixels.extend((0..PLANE).flat_map(pixel));
        }
    }
    MemoryDataset::new(pixels, (SIDE, SIDE), 3)?.with_labels(labels, release.classes, folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;

    fn record(labels: &[u8]) -> Vec<u8> {
        let planes =
            (0..3 * PLANE).map(|at| u8::try_from(at / PLANE * 50 + at % PLANE % 7).unwrap());
        labels.iter().copied().chain(planes).collect()
    }

    #[test]
    fn reads_all_batches_of_cifar_10_and_fine_labels_of_cifar_100() {
        let folder = tempfile::tempdir().unwrap();
        for (name, label) in [("data_batch_1.bin", 3), ("data_batch_2.bin", 9)] {
            std::fs::write(folder.path().join(name), record(&[label])).unwrap();
        }
        assert!(recognises(folder.path()));
        let ten = open(folder.path(), Split::Train).unwrap();
        assert_eq!((ten.len(), ten.classes(), ten.label(1)), (2, 10, Some(9)));
        assert_eq!(ten.read(0).unwrap().pixels()[3..6], [1, 51, 101]);
        let error = open(folder.path(), Split::Test).unwrap_err().to_string();
        assert!(error.contains("test_batch.bin"), "{error}");

        std::fs::write(folder.path().join("test.bin"), record(&[4, 77])).unwrap();
        let hundred = open(folder.path(), Split::Test).unwrap();
        assert_eq!((hundred.classes(), hundred.label(0)), (100, Some(77)));
    }

    #[test]
    fn refuses_truncated_records_and_impossible_labels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test_batch.bin");
        std::fs::write(&path, &record(&[1])[..3000]).unwrap();
        let error = open(folder.path(), Split::Test).unwrap_err().to_string();
        assert!(error.contains("not whole records of 3073"), "{error}");
        std::fs::write(&path, record(&[10])).unwrap();
        let error = open(folder.path(), Split::Test).unwrap_err().to_string();
        assert!(error.contains("label 10 among 10 classes"), "{error}");
    }
}
