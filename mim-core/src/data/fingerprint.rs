//! Whether a data set is still the one that it was.

use std::path::Path;
use std::time::UNIX_EPOCH;

use super::Dataset;

/// A CRC-32 of names and labels of all images in their order, and of length and time of change of the files that
/// their names begin with.
///
/// Images without files of their own, such as those of IDX files, are known by their number and labels alone.
///
/// ```
/// use mim_core::data::{DataSource, Split, fingerprint};
///
/// let open = |split| DataSource::Embedded.open(split);
/// let (train, test) = (open(Split::Train)?, open(Split::Test)?);
/// assert_eq!(fingerprint(train.as_ref()), fingerprint(train.as_ref()));
/// assert_ne!(fingerprint(train.as_ref()), fingerprint(test.as_ref()));
/// # Ok::<(), mim_core::Error>(())
/// ```
pub fn fingerprint(images: &dyn Dataset) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut last = String::new();
    for index in 0..images.len() {
        let name = images.name_of(index);
        let file = file_of(&name);
        if file != last {
            last = file.to_owned();
            hasher.update(&stamp(file));
        }
        let label = images.label(index).map_or(-1, i64::from);
        hasher.update(name.as_bytes());
        hasher.update(&[&[0][..], &label.to_le_bytes()].concat());
    }
    hasher.finalize()
}

/// The file of an image: its name, or what stands before `#` in the names of images that share a file.
fn file_of(name: &str) -> &str {
    match name.rsplit_once('#') {
        Some((file, _)) if !Path::new(name).exists() => file,
        _ => name,
    }
}

/// Length and time of change of a file; nothing if there is no such file.
fn stamp(file: &str) -> Vec<u8> {
    let Ok(metadata) = std::fs::metadata(file) else {
        return vec![];
    };
    let changed = metadata.modified().ok();
    let nanos = changed.and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()));
    let nanos = nanos.unwrap_or_default();
    [&metadata.len().to_le_bytes()[..], &nanos.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DataSource, Split};

    #[test]
    fn other_names_and_other_files_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, grey: u8| {
            let pixel = format!("P2\n1 1\n255\n{grey}\n");
            std::fs::write(dir.path().join(name), pixel).unwrap();
        };
        let of_folder = || {
            let images = DataSource::Folder(dir.path().to_owned()).open(Split::Train);
            fingerprint(images.unwrap().as_ref())
        };
        write("a.pgm", 7);
        write("b#1.pgm", 8);
        let first = of_folder();
        assert_eq!(of_folder(), first);
        write("b#1.pgm", 100);
        let longer = of_folder();
        assert_ne!(longer, first);
        std::fs::rename(dir.path().join("a.pgm"), dir.path().join("c.pgm")).unwrap();
        assert_ne!(of_folder(), longer);
    }
}
