//! Folders of IDX files with the names of MNIST and Fashion-MNIST, plain or gzipped.
//!
//! Format: two zero bytes, 8 for bytes, the rank, then the big-endian u32 sides and the values
//! (LeCun et al., the MNIST database).

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::embedded::TWO;
use super::{MemoryDataset, Split};
use crate::{Error, Result, files};

/// Whether the folder holds images of either split.
pub(super) fn recognises(folder: &Path) -> bool {
    [Split::Train, Split::Test]
        .iter()
        .any(|split| find(folder, &image_file(*split)).is_some())
}

/// Opens a split; without a label file it is unlabelled.
///
/// # Errors
///
/// [`Error::NoSplit`] if there are neither its images nor its labels; [`Error::Format`] if there are labels alone, or a
/// file is damaged.
pub(super) fn open(folder: &Path, split: Split) -> Result<MemoryDataset> {
    let other = match split {
        Split::Train => Split::Test,
        Split::Val => return Err(Error::no_split(folder.display(), split, TWO)),
        Split::Test => Split::Train,
    };
    let name = image_file(split);
    let path = find(folder, &name).ok_or_else(|| {
        let fix = "download the file, or point to the folder that holds it";
        match find(folder, &label_file(split)) {
            Some(labels) => {
                let what = format!("its images are missing: there is neither {name} nor {name}.gz");
                Error::format(labels, what, fix)
            }
            None => {
                let fix = format!("there is neither {name} nor {name}.gz: {fix}");
                Error::no_split(folder.display(), split, fix)
            }
        }
    })?;
    let dataset = images(&path, &read(&path)?)?;
    let Some(path) = find(folder, &label_file(split)) else {
        return Ok(dataset);
    };
    let values = labels(&path, &read(&path)?)?;
    let mut classes = values.iter().max().map_or(0, |label| label + 1);
    if let Some(path) = find(folder, &label_file(other)) {
        let others = labels(&path, &read(&path)?)?;
        classes = classes.max(others.iter().max().map_or(0, |label| label + 1));
    }
    dataset.with_labels(values, classes as usize, &path)
}

fn image_file(split: Split) -> String {
    format!("{}-images-idx3-ubyte", stem(split))
}

fn label_file(split: Split) -> String {
    format!("{}-labels-idx1-ubyte", stem(split))
}

fn stem(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Val | Split::Test => "t10k",
    }
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    [folder.join(name), folder.join(format!("{name}.gz"))]
        .into_iter()
        .find(|path| path.is_file())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    files::read(path)
}

/// Images of an IDX file's bytes; `path` names them in errors.
pub(super) fn images(path: &Path, raw: &[u8]) -> Result<MemoryDataset> {
    let (sides, values) = parse(path, raw, 3)?;
    MemoryDataset::new(values, (sides[1], sides[2]), 1)
}

/// Labels of an IDX file's bytes.
pub(super) fn labels(path: &Path, raw: &[u8]) -> Result<Vec<u32>> {
    let (_, values) = parse(path, raw, 1)?;
    Ok(values.into_iter().map(u32::from).collect())
}

/// Sides and values of an IDX file of bytes with `rank` axes.
fn parse(path: &Path, raw: &[u8], rank: u8) -> Result<(Vec<usize>, Vec<u8>)> {
    let bytes = inflated(path, raw)?;
    let broken = |what: String| Error::format(path, what, "download the file again");
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(broken(format!("only {} bytes long", bytes.len())));
    };
    if *magic != [0, 0, 8, rank] {
        return Err(broken(format!(
            "starts with {magic:?}, not with the [0, 0, 8, {rank}] of an IDX file of bytes with {rank} axes"
        )));
    }
    let (sides, values) = rest
        .split_at_checked(4 * usize::from(rank))
        .ok_or_else(|| broken("ends inside its header".into()))?;
    let sides: Vec<usize> = sides
        .as_chunks::<4>()
        .0
        .iter()
        .map(|side| u32::from_be_bytes(*side) as usize)
        .collect();
    let expected = sides
        .iter()
        .try_fold(1usize, |product, side| product.checked_mul(*side));
    if expected != Some(values.len()) || values.is_empty() {
        return Err(broken(format!(
            "holds {} values where its header promises {sides:?}",
            values.len()
        )));
    }
    Ok((sides, values.to_vec()))
}

fn inflated<'a>(path: &Path, raw: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    if !raw.starts_with(&[0x1f, 0x8b]) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut bytes = vec![];
    // Images hardly shrink tenfold; a small file of zeros would fill any memory.
    let most = (64 << 20) + 100 * raw.len() as u64;
    flate2::read::GzDecoder::new(raw)
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            Error::format(
                path,
                format!("broken gzip: {error}"),
                "download the file again",
            )
        })?;
    if bytes.len() as u64 > most {
        let what = format!(
            "the gzip file of {} bytes unpacks to more than {most}",
            raw.len()
        );
        return Err(Error::format(
            path,
            what,
            "unpack the file, if you trust it",
        ));
    }
    Ok(Cow::Owned(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;

    const IMAGES: &[u8] = &[
        0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 10, 20, 30, 40,
    ];
    const LABELS: &[u8] = &[0, 0, 8, 1, 0, 0, 0, 2, 5, 3];

    fn write(folder: &Path, name: &str, bytes: &[u8]) {
        std::fs::write(folder.join(name), bytes).unwrap();
    }

    #[test]
    fn opens_plain_files_and_counts_classes_over_both_splits() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!recognises(folder.path()));
        write(folder.path(), "train-images-idx3-ubyte", IMAGES);
        assert!(recognises(folder.path()));
        assert_eq!(open(folder.path(), Split::Train).unwrap().classes(), 0);
        write(folder.path(), "train-labels-idx1-ubyte", LABELS);
        write(
            folder.path(),
            "t10k-labels-idx1-ubyte",
            &[0, 0, 8, 1, 0, 0, 0, 1, 8],
        );
        let dataset = open(folder.path(), Split::Train).unwrap();
        assert_eq!(
            (dataset.len(), dataset.classes(), dataset.label(0)),
            (2, 9, Some(5))
        );
        assert_eq!(dataset.read(1).unwrap().pixels(), [30, 40]);
        // Labels without images are a mistake; without both there is no such split.
        let error = open(folder.path(), Split::Test).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("t10k-labels-idx1-ubyte: its images are missing"),
            "{text}"
        );
        std::fs::remove_file(folder.path().join("t10k-labels-idx1-ubyte")).unwrap();
        for split in [Split::Val, Split::Test] {
            let error = open(folder.path(), split).unwrap_err();
            assert!(matches!(error, Error::NoSplit { .. }), "{error}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let message = |bytes: &[u8]| images(Path::new("x"), bytes).unwrap_err().to_string();
        assert!(
            message(&IMAGES[..19]).contains("holds 3 values where its header promises [2, 1, 2]")
        );
        assert!(message(&IMAGES[..9]).contains("inside its header"));
        assert!(message(LABELS).contains("starts with [0, 0, 8, 1]"));
        assert!(message(&[]).contains("0 bytes"));
        assert!(message(&[0x1f, 0x8b, 8]).contains("gzip"));
    }
}
