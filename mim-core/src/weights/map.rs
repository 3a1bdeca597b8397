//! Named tensors of a weights file.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::{Error, Result};

/// Named tensors on the CPU, in the order of their names.
#[derive(Debug, Clone, Default)]
pub struct WeightMap(BTreeMap<String, Tensor>);

impl WeightMap {
    /// Reads a `.safetensors` file, `model.safetensors` in a folder, or `hf:owner/name[@revision][/file]` of the
    /// Hugging Face Hub (see [`locate`](super::locate)).
    ///
    /// # Errors
    ///
    /// [`Error::Hub`] if it cannot be downloaded, [`Error::Io`] if it cannot be read, [`Error::Format`] if it is cut short, damaged or of another kind.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = super::locate(path)?;
        let path = path.as_path();
        if path.is_dir() {
            return Self::read(path.join("model.safetensors"));
        }
        if path
            .extension()
            .is_none_or(|extension| extension != "safetensors")
        {
            return Err(Error::format(
                path,
                "this is not a .safetensors file",
                RESAVE,
            ));
        }
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| {
            let what = match promised_length(&bytes) {
                Some(length) => format!(
                    "the file has {} bytes, its header promises {length}; {error}",
                    bytes.len()
                ),
                None => format!("the safetensors header cannot be read ({error})"),
            };
            Error::format(
                path,
                what,
                "it is damaged or cut short: copy or download it again",
            )
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
        tensors.collect::<Result<BTreeMap<_, _>>>().map(Self)
    }

    /// Writes a `.safetensors` file; equal tensors and metadata give equal bytes.
    ///
    /// `metadata` holds at most one pair, since the format does not order them.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>, metadata: Option<(&str, &str)>) -> Result<()> {
        let path = path.as_ref();
        let metadata =
            metadata.map(|(key, value)| HashMap::from([(key.to_owned(), value.to_owned())]));
        let bytes = safetensors::serialize(self.0.iter(), metadata)
            .map_err(|error| Error::format(path, error.to_string(), "report this as a bug"))?;
        let mut file = std::fs::File::create(path).map_err(Error::io("create", path))?;
        file.write_all(&bytes).map_err(Error::io("write", path))?;
        file.sync_all().map_err(Error::io("write", path))
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// All tensors with their names, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tensors whose name starts with `prefix`, under the rest of their names.
    pub fn strip_prefix(&self, prefix: &str) -> Self {
        let stripped = self
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)));
        stripped
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .collect()
    }
}

const RESAVE: &str = "save the weights as .safetensors (in Python: \
    safetensors.torch.save_file(torch.load(path, map_location='cpu')['model'], 'model.safetensors'))";

impl FromIterator<(String, Tensor)> for WeightMap {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// Bytes that a file with this header should have; none if the header itself is damaged.
fn promised_length(bytes: &[u8]) -> Option<u64> {
    let header = 8 + u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let json = bytes.get(8..usize::try_from(header).ok()?)?;
    let entries: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).ok()?;
    let ends = entries
        .values()
        .filter_map(|entry| entry.get("data_offsets")?.get(1)?.as_u64());
    Some(header + ends.max().unwrap_or(0))
}

fn tensor_of(view: &TensorView<'_>) -> Result<Tensor> {
    use safetensors::Dtype;
    let shape = view.shape();
    // candle has no such integers: they only occur in index buffers and small masks.
    Ok(match view.dtype() {
        Dtype::BOOL | Dtype::I8 => Tensor::from_slice(view.data(), shape, &Device::Cpu)?,
        _ => candle_core::safetensors::Load::load(view, &Device::Cpu)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> WeightMap {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        [
            ("b".to_owned(), tensor(&[1., 2.])),
            ("a".to_owned(), tensor(&[3.])),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn what_is_written_is_read_back_and_bytes_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (
            dir.path().join("1.safetensors"),
            dir.path().join("2.safetensors"),
        );
        sample().write(&first, Some(("format", "mim"))).unwrap();
        sample().write(&second, Some(("format", "mim"))).unwrap();
        assert_eq!(
            std::fs::read(&first).unwrap(),
            std::fs::read(&second).unwrap()
        );
        let read = WeightMap::read(&first).unwrap();
        assert_eq!(read.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(read.get("b").unwrap().to_vec1::<f32>().unwrap(), [1., 2.]);
    }

    #[test]
    fn a_file_cut_short_is_refused_with_both_lengths() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut.safetensors");
        sample().write(&path, None).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let error = WeightMap::read(&path).unwrap_err().to_string();
        assert!(
            error.contains(&(bytes.len() - 5).to_string())
                && error.contains(&bytes.len().to_string()),
            "{error}"
        );
        std::fs::write(&path, b"no").unwrap();
        assert!(
            WeightMap::read(&path)
                .unwrap_err()
                .to_string()
                .contains("header")
        );
    }

    #[test]
    fn other_formats_are_refused_with_what_to_do() {
        let error = WeightMap::read("mae_pretrain_vit_base.pth")
            .unwrap_err()
            .to_string();
        assert!(error.contains("save_file"), "{error}");
    }
}
