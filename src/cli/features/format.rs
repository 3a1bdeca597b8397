//! The file formats of features.
//!
//! A header of fixed length comes before the rows. So rows are written as they are computed, and the header when their
//! number is known.

use std::path::Path;

use mim_core::{Error, Result};

/// Bytes before the rows of a `.npy` file: a multiple of 64, and enough for any shape.
const NPY: usize = 128;
/// Bytes before the header's own text in a `.npy` file.
const NPY_START: usize = 10;
/// Bytes of the length and of the header of a `.safetensors` file.
const SAFETENSORS: usize = 512;
/// Bytes of a label.
const LABEL: usize = 8;

/// A file format of features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Format {
    /// numpy's: the rows alone.
    Npy,
    /// The rows as `features`, and `labels` where there are labels.
    Safetensors,
}

impl Format {
    /// The format of a file, by its ending.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] for other endings.
    pub(super) fn of(output: &Path) -> Result<Self> {
        match output.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("safetensors") => Ok(Self::Safetensors),
            _ => Err(Error::format(
                output,
                "features are written as .npy or .safetensors",
                "give the file one of these endings",
            )),
        }
    }

    /// Bytes before the rows of a file of at most `most` rows.
    pub(super) fn start(self, most: usize, labelled: bool) -> usize {
        match self {
            Self::Npy => NPY,
            Self::Safetensors if labelled => SAFETENSORS + LABEL * most,
            Self::Safetensors => SAFETENSORS,
        }
    }

    /// The header of `start` bytes for rows of shape `dims`, whose first entry is their number.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if `start` is too short, which no real shape needs.
    pub(super) fn head(
        self,
        dims: &[usize],
        labels: Option<&[i64]>,
        start: usize,
    ) -> Result<Vec<u8>> {
        let head = match self {
            Self::Npy => npy(dims, start),
            Self::Safetensors => safetensors(dims, labels, start),
        };
        head.filter(|head| head.len() == start).ok_or_else(|| {
            let why = "the header has no room for it";
            Error::unsupported(format!("features of shape {dims:?}"), why, "split the data")
        })
    }
}

/// Version 1.0 of numpy's format: the text ends with the end of a line.
fn npy(dims: &[usize], start: usize) -> Option<Vec<u8>> {
    let shape: Vec<String> = dims.iter().map(usize::to_string).collect();
    let shape = shape.join(", ");
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    let room = start.checked_sub(NPY_START + 1)?;
    let length = u16::try_from(room + 1).ok()?;
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend(length.to_le_bytes());
    head.extend(format!("{text:room$}\n").as_bytes());
    Some(head)
}

/// The labels come before the rows, so that they are aligned. If some images have no row, spaces fill the header's text.
fn safetensors(dims: &[usize], labels: Option<&[i64]>, start: usize) -> Option<Vec<u8>> {
    let bytes = labels.map_or(0, |labels| LABEL * labels.len());
    let values = 4 * dims.iter().product::<usize>();
    let tensor = |kind: &str, shape: &[usize], from: usize, to: usize| serde_json::json!({ "dtype": kind, "shape": shape, "data_offsets": [from, to] });
    let mut header = serde_json::Map::new();
    if let Some(labels) = labels {
        let labels = tensor("I64", &[labels.len()], 0, bytes);
        header.insert("labels".to_owned(), labels);
    }
    let features = tensor("F32", dims, bytes, bytes + values);
    header.insert("features".to_owned(), features);
    let text = serde_json::Value::Object(header).to_string();
    let room = start.checked_sub(8 + bytes)?;
    let mut head = (room as u64).to_le_bytes().to_vec();
    head.extend(format!("{text:room$}").as_bytes());
    head.extend(labels.into_iter().flatten().flat_map(|l| l.to_le_bytes()));
    Some(head)
}

#[cfg(test)]
mod tests {
    use mim_core::weights::WeightMap;

    use super::*;

    #[test]
    fn files_are_read_with_all_or_some_of_the_expected_rows() {
        let dir = tempfile::tempdir().unwrap();
        for rows in [1usize, 3, 4] {
            for labels in [None, Some(&[5i64, 6, 7, 8][..rows])] {
                let format = Format::Safetensors;
                let start = format.start(4, labels.is_some());
                let mut bytes = format.head(&[rows, 1, 3], labels, start).unwrap();
                let values: Vec<f32> = (0..3 * rows).map(|value| value as f32).collect();
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                let path = dir.path().join("a.safetensors");
                std::fs::write(&path, bytes).unwrap();
                let read = WeightMap::read(&path).unwrap();
                let features = read.get("features").unwrap();
                assert_eq!(features.dims(), [rows, 1, 3]);
                let found: Vec<f32> = features.flatten_all().unwrap().to_vec1().unwrap();
                assert_eq!(found, values);
                let found = read.get("labels").map(|l| l.to_vec1::<i64>().unwrap());
                assert_eq!(found.as_deref(), labels);
            }
        }
    }

    #[test]
    fn the_head_of_an_array_is_numpys() {
        let head = Format::Npy.head(&[23, 8], None, NPY).unwrap();
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (23, 8), }";
        let wanted = [b"\x93NUMPY\x01\0\x76\0", format!("{text:117}\n").as_bytes()].concat();
        assert_eq!(head, wanted);
        let error = Format::Npy.head(&[usize::MAX; 4], None, NPY).unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
    }
}
