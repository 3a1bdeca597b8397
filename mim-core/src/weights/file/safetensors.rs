//! `.safetensors` files, single or sharded with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Deserialize;

use super::TensorHeader;
use super::elements::Elements;
use crate::weights::WeightMap;
use crate::{Error, Result, files};

/// Reads one file.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is cut short or damaged.
pub(super) fn read(path: &Path) -> Result<WeightMap> {
    parse(path, &files::read(path)?)
}

/// Reads the content of the file at `path`.
///
/// # Errors
///
/// [`Error::Format`] if it is cut short or damaged.
pub(in crate::weights) fn parse(path: &Path, bytes: &[u8]) -> Result<WeightMap> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| {
        let what = match promised_length(bytes) {
            Some(length) => format!(
                "the file has {} bytes, but its header promises {length}; {error}",
                bytes.len()
            ),
            None => format!("the safetensors header cannot be read ({error})"),
        };
        super::torch::damaged(path, what)
    })?;
    let tensors = file.iter().map(|(name, view)| {
        let tensor = tensor_of(&view).map_err(|error| {
            Error::format(
                path,
                format!("tensor `{name}`: {error}"),
                "save it as f32, f16, bf16 or integers",
            )
        })?;
        Ok((name.to_owned(), tensor))
    });
    tensors.collect()
}

/// The tensors in the header, sorted by name.
///
/// # Errors
///
/// As [`read`].
pub(super) fn header(path: &Path) -> Result<Vec<TensorHeader>> {
    let damaged = |what: String| super::torch::damaged(path, what);
    let mut file = files::open(path)?;
    let there = file.metadata().map_err(Error::io("read", path))?.len();
    let mut bytes = vec![0; 8];
    file.read_exact(&mut bytes)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                damaged(format!("the file has {there} bytes, too few for a header"))
            }
            _ => Error::io("read", path)(error),
        })?;
    let length = bytes
        .iter()
        .rev()
        .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    if length > MOST_HEADER || length + 8 > there {
        return Err(damaged(format!(
            "its header claims {length} bytes, but the file has {there}"
        )));
    }
    file.take(length)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&bytes[8..])
        .map_err(|error| damaged(format!("the safetensors header cannot be read ({error})")))?;
    let mut end = 0;
    let mut tensors = Vec::new();
    for (name, value) in entries
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
    {
        let entry: Entry = serde_json::from_value(value)
            .map_err(|error| damaged(format!("tensor `{name}` in its header: {error}")))?;
        let [from, to] = entry.data_offsets;
        if let Some(bytes) = entry.bytes()
            && to.checked_sub(from) != Some(bytes)
        {
            return Err(damaged(format!(
                "tensor `{name}` of shape {:?} needs {bytes} bytes, but its header gives it {from} to {to}",
                entry.shape
            )));
        }
        end = end.max(to);
        tensors.push(TensorHeader {
            name,
            dtype: entry.dtype,
            shape: entry.shape,
        });
    }
    let promised = end.saturating_add(8 + length);
    if promised != there {
        return Err(damaged(format!(
            "the file has {there} bytes, but its header promises {promised}"
        )));
    }
    Ok(tensors)
}

/// A tensor in a header.
#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl Entry {
    /// The bytes that its shape needs; `None` for a dtype of another version of the format, or one smaller than a byte.
    fn bytes(&self) -> Option<u64> {
        let size = match self.dtype.as_str() {
            "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 1,
            "U16" | "I16" | "F16" | "BF16" => 2,
            "U32" | "I32" | "F32" => 4,
            "U64" | "I64" | "F64" => 8,
            _ => return None,
        };
        let sizes = self.shape.iter().map(|size| *size as u64);
        Some(sizes.fold(size, u64::saturating_mul))
    }
}

/// Maximum bytes of a header, from the format's specification.
const MOST_HEADER: u64 = 100_000_000;

/// The needed part of an index file: the file of each tensor.
#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads the files named by an index; `one` reads each file.
///
/// # Errors
///
/// [`Error::Format`] if the index is damaged, names a file outside its folder, or names a missing tensor.
pub(super) fn read_sharded(
    path: &Path,
    one: impl Fn(&Path) -> Result<WeightMap>,
) -> Result<WeightMap> {
    let text = files::read(path)?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| {
        Error::format(
            path,
            error.to_string(),
            "use the index file from the folder of the shards",
        )
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut weights = WeightMap::default();
    for file in index.weight_map.values().collect::<BTreeSet<_>>() {
        let shard = folder.join(file);
        // A nested index could recurse forever.
        if file.contains(['/', '\\', ':']) || file.ends_with(".json") || !shard.is_file() {
            return Err(Error::format(
                path,
                format!("it names `{file}`, which is not a file of weights in its folder"),
                "use an index whose files are in its own folder",
            ));
        }
        for (name, tensor) in one(&shard)?.iter() {
            weights.insert(name, tensor.clone());
        }
    }
    let missing: Vec<_> = index
        .weight_map
        .keys()
        .filter(|name| weights.get(name).is_none())
        .collect();
    match missing.first() {
        None => Ok(weights),
        Some(first) => Err(Error::format(
            path,
            format!(
                "{} tensors of the index are missing from its files, for instance `{first}`",
                missing.len()
            ),
            "copy all files of the same version of the model",
        )),
    }
}

/// The file size that follows from the header; `None` if the header itself is damaged.
fn promised_length(bytes: &[u8]) -> Option<u64> {
    let header = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?).checked_add(8)?;
    let json = bytes.get(8..usize::try_from(header).ok()?)?;
    let entries: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).ok()?;
    let ends = entries
        .values()
        .filter_map(|entry| entry.get("data_offsets")?.get(1)?.as_u64());
    header.checked_add(ends.max().unwrap_or(0))
}

fn tensor_of(view: &TensorView<'_>) -> Result<Tensor, String> {
    use safetensors::Dtype;
    let elements = match view.dtype() {
        Dtype::BOOL => Elements::Bool,
        Dtype::I8 => Elements::I8,
        Dtype::I16 => Elements::I16,
        Dtype::I32 => Elements::I32,
        _ => {
            let tensor = candle_core::safetensors::Load::load(view, &Device::Cpu);
            return tensor.map_err(|error| error.to_string());
        }
    };
    elements.tensor(view.data(), view.shape())
}
