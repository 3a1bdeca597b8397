//! One array of an `.npz` archive in memory.

use std::io::{Cursor, Read};
use std::path::Path;

use flate2::CrcReader;
use flate2::read::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use super::torch::damaged;
use crate::{Error, Result};

/// Bytes of an array allowed per byte of its archive, above what any array may have: zeros compress well.
const TIMES: u64 = 64;
const FREE: u64 = 64 << 20;

/// The `.npy` file called `key` in the bytes of an `.npz`, or the only one; `path` names the archive in errors.
///
/// # Errors
///
/// [`Error::Format`] if it is damaged, lacks that array, or has several and no key was given.
pub(crate) fn read_npz_entry(bytes: &[u8], path: &Path, key: Option<&str>) -> Result<Vec<u8>> {
    let what = |error: &dyn std::fmt::Display| damaged(path, error.to_string());
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| what(&error))?;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let file = archive.by_index_raw(index).map_err(|error| what(&error))?;
        let name = file.name().map_err(|error| what(&error))?;
        if let Some(name) = name.strip_suffix(".npy") {
            arrays.push((index, name.to_owned()));
        }
    }
    let chosen = match (key, arrays.as_slice()) {
        (Some(key), _) => arrays.iter().find(|(_, name)| name == key),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let Some((index, name)) = chosen else {
        let names: Vec<_> = arrays.iter().map(|(_, name)| name.as_str()).collect();
        let what = match key {
            Some(key) => format!("has no array `{key}`, but {}", names.join(", ")),
            None => format!("has {} arrays: {}", names.len(), names.join(", ")),
        };
        let fix = "set data.array_key to the name of the array that is the image";
        return Err(Error::format(path, what, fix));
    };
    let mut file = archive.by_index_raw(*index).map_err(|error| what(&error))?;
    let (sum, kind) = (file.crc32(), file.compression());
    let unpacked: Box<dyn Read + '_> = match kind {
        CompressionMethod::Stored => Box::new(&mut file),
        CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(&mut file)),
        other => {
            return Err(what(&format!(
                "its compression ({other:?}) is not supported"
            )));
        }
    };
    let most = (bytes.len() as u64)
        .saturating_mul(TIMES)
        .saturating_add(FREE);
    let (mut reader, mut values) = (CrcReader::new(unpacked.take(most)), Vec::new());
    let read = reader.read_to_end(&mut values);
    read.map_err(|error| what(&format!("array `{name}`: {error}")))?;
    if reader.crc().sum() != sum {
        return Err(what(&format!("array `{name}`: its checksum is wrong")));
    }
    Ok(values)
}
