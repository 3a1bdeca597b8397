//! numpy's `.npz` archives.

use std::io::Read;
use std::path::Path;

use candle_core::Tensor;
use flate2::CrcReader;
use flate2::read::DeflateDecoder;
use zip::CompressionMethod;

use super::budget::Budget;
use super::elements::Elements;
use super::torch::{Archive, damaged};
use crate::augment::Depth;
use crate::weights::WeightMap;
use crate::{Error, Result, files};

/// Limit on the length of a header, above any array.
const LONGEST_HEADER: u64 = 1 << 16;

/// The header of one array.
#[derive(Debug, PartialEq)]
struct Header {
    elements: Elements,
    /// Whether the highest byte of a value comes first.
    big_endian: bool,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Whether the archive holds arrays.
pub(super) fn is_npz(archive: &Archive) -> bool {
    archive
        .file_names()
        .any(|name| name.is_ok_and(|name| name.ends_with(".npy")))
}

/// Reads all arrays; those with values other than plain numbers are listed as skipped.
///
/// # Errors
///
/// [`Error::Format`](crate::Error::Format) naming the damaged array.
pub(super) fn read(
    archive: &mut Archive,
    path: &Path,
    budget: &mut Budget,
) -> Result<(WeightMap, Vec<String>)> {
    let (mut weights, mut skipped) = (WeightMap::default(), Vec::new());
    for index in 0..archive.len() {
        let mut file = archive
            .by_index_raw(index)
            .map_err(|error| damaged(path, error.to_string()))?;
        let name = file.name().map(std::borrow::Cow::into_owned);
        let name = name.map_err(|error| damaged(path, error.to_string()))?;
        let Some(name) = name.strip_suffix(".npy") else {
            continue;
        };
        let sum = file.crc32();
        let array = match file.compression() {
            CompressionMethod::Stored => array(&mut file, sum, budget),
            CompressionMethod::DEFLATE => array(&mut DeflateDecoder::new(&mut file), sum, budget),
            other => Err(format!("its compression ({other:?}) is not supported")),
        };
        match array.map_err(|what| damaged(path, format!("array `{name}`: {what}")))? {
            Ok(tensor) => weights.insert(name, tensor),
            Err(why) => skipped.push(format!("{name}: {why}")),
        }
    }
    Ok((weights, skipped))
}

/// Reads the array of an `.npy` file.
///
/// # Errors
///
/// [`Error::Io`](crate::Error::Io) if it cannot be read, [`Error::Format`](crate::Error::Format) if it is damaged or its values are not plain
/// numbers.
pub(crate) fn read_npy(path: &Path) -> Result<Tensor> {
    let mut file = files::open(path)?;
    let mut budget = Budget::of(path)?;
    let array = values(&mut file, &mut budget).map_err(|what| damaged(path, what))?;
    array.map_err(|why| damaged(path, why))
}

/// Reads the array in the bytes of an `.npy` file, and the type of its values; `path` names it in errors.
///
/// # Errors
///
/// [`crate::Error::Format`] if it is damaged or has an unsupported dtype.
pub(crate) fn read_npy_bytes(bytes: &[u8], path: &Path) -> Result<(Tensor, Depth)> {
    let mut budget = Budget::of_length(bytes.len() as u64);
    let array = values(&mut &*bytes, &mut budget).map_err(|what| damaged(path, what))?;
    let array = array.map_err(|why| {
        Error::format(
            path,
            why,
            "save the array as numbers: integers, floats or booleans",
        )
    })?;
    let text = header_text(&mut &*bytes).map_err(|what| damaged(path, what))?;
    match header(&text) {
        Some(Ok(header)) => Ok((array, header.elements.depth())),
        _ => Err(damaged(path, "its header is damaged")),
    }
}

/// Reads one array and checks its checksum; the inner error names an unsupported dtype.
fn array(
    reader: &mut dyn Read,
    sum: u32,
    budget: &mut Budget,
) -> Result<Result<Tensor, String>, String> {
    let mut reader = CrcReader::new(reader);
    let array = values(&mut reader, budget)?;
    if array.is_ok() && reader.crc().sum() != sum {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(array)
}

/// Reads one array up to the end of `reader`; the inner error names an unsupported dtype.
fn values(reader: &mut dyn Read, budget: &mut Budget) -> Result<Result<Tensor, String>, String> {
    let text = header_text(reader)?;
    let header = match header(&text).ok_or_else(|| format!("its header is damaged: {text}"))? {
        Ok(header) => header,
        Err(kind) => return Ok(Err(format!("its type is {kind}"))),
    };
    let bytes = header.bytes().ok_or("its shape is too large")?;
    budget.values(bytes / header.elements.width(), header.elements)?;
    let mut values = Vec::new();
    // One extra byte shows whether there is more than the shape says.
    let read = reader.take(bytes as u64 + 1).read_to_end(&mut values);
    read.map_err(|error| error.to_string())?;
    if values.len() != bytes {
        let more = if values.len() > bytes {
            " and more"
        } else {
            ""
        };
        return Err(format!(
            "its shape {:?} needs {bytes} bytes, but it has {}{more}",
            header.shape,
            values.len().min(bytes),
        ));
    }
    if header.big_endian {
        let values = values.chunks_exact_mut(header.elements.width());
        values.for_each(<[u8]>::reverse);
    }
    header.tensor(&values).map(Ok)
}

/// Reads the Python dict that describes an array.
fn header_text(reader: &mut dyn Read) -> Result<String, String> {
    let fill = |reader: &mut dyn Read, bytes: &mut [u8]| {
        reader.read_exact(bytes).map_err(|error| error.to_string())
    };
    let mut start = [0u8; 8];
    fill(reader, &mut start)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err("it is not an .npy file".to_owned());
    }
    let mut length = vec![0; if start[6] == 1 { 2 } else { 4 }];
    fill(reader, &mut length)?;
    let length = length
        .iter()
        .rev()
        .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    if length > LONGEST_HEADER {
        return Err(format!("its header has {length} bytes"));
    }
    let mut text = Vec::new();
    let read = reader.take(length).read_to_end(&mut text);
    read.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

impl Header {
    /// Bytes of all values; `None` on overflow.
    fn bytes(&self) -> Option<usize> {
        let volume = |count: usize, size: &usize| count.checked_mul((*size).max(1));
        let count = self.shape.iter().try_fold(1, volume)?;
        let count = if self.shape.contains(&0) { 0 } else { count };
        count.checked_mul(self.elements.width())
    }

    fn tensor(&self, bytes: &[u8]) -> Result<Tensor, String> {
        if !self.fortran_order {
            return self.elements.tensor(bytes, &self.shape);
        }
        let reversed: Vec<usize> = self.shape.iter().rev().copied().collect();
        let axes: Vec<usize> = (0..self.shape.len()).rev().collect();
        let tensor = self.elements.tensor(bytes, &reversed)?;
        let tensor = tensor.permute(axes).and_then(|tensor| tensor.contiguous());
        tensor.map_err(|error| error.to_string())
    }
}

/// Parses the Python dict of a header: `None` if it is damaged, an inner error for a dtype that is not a number.
fn header(text: &str) -> Option<Result<Header, String>> {
    let value = |key: &str| {
        let (_, rest) = text.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let descr = value("descr")?;
    let Some(descr) = descr.strip_prefix('\'') else {
        return Some(Err("a record".to_owned()));
    };
    let (descr, _) = descr.split_once('\'')?;
    let little = descr.replacen('>', "<", 1);
    let Some(elements) = Elements::of_numpy(&little) else {
        return Some(Err(descr.to_owned()));
    };
    let (shape, _) = value("shape")?.strip_prefix('(')?.split_once(')')?;
    let sizes = shape
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty());
    let shape: Vec<usize> = sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?;
    (shape.len() <= 16).then_some(Ok(Header {
        elements,
        big_endian: descr.starts_with('>'),
        fortran_order: value("fortran_order")?.starts_with("True"),
        shape,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_all_kinds() {
        let read = |text: &str| header(text);
        let plain = read("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n");
        let expected = Header {
            elements: Elements::F32,
            big_endian: false,
            fortran_order: false,
            shape: vec![3, 4],
        };
        assert_eq!(plain, Some(Ok(expected)));
        let big = read("{'descr': '>u2', 'fortran_order': False, 'shape': (2,), }").unwrap();
        let big = big.unwrap();
        assert!(big.big_endian && big.elements == Elements::U16);
        let scalar = read("{'descr': '|b1', 'fortran_order': True, 'shape': (), }")
            .unwrap()
            .unwrap();
        assert_eq!((scalar.shape.len(), scalar.fortran_order), (0, true));
        assert_eq!(
            read("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
            Some(Err("|O".to_owned()))
        );
        assert!(matches!(
            read("{'descr': [('a', '<f4')], 'shape': (1,), }"),
            Some(Err(_))
        ));
        for damaged in [
            "",
            "{'descr': '<f4'",
            "{'descr': '<f4', 'shape': (-1,), 'fortran_order': False}",
        ] {
            assert_eq!(read(damaged), None, "{damaged}");
        }
    }
}
