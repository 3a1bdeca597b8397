//! Named tensors of a weights file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Tensor};

use super::WeightFile;
use crate::{Error, Result, files};

/// Named tensors on the CPU, sorted by name.
#[derive(Debug, Clone, Default)]
pub struct WeightMap(BTreeMap<String, Tensor>);

impl WeightMap {
    /// Reads a file of weights: `.safetensors`, a PyTorch checkpoint, `.npz`, an index of several files,
    /// a folder with one of them, or `hf:owner/name[@revision][/file]`. [`WeightFile`] gives more details.
    ///
    /// # Errors
    ///
    /// As [`WeightFile::open`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Ok(WeightFile::open(path, None)?.weights)
    }

    /// Writes a `.safetensors` file, whole or not at all; equal tensors and metadata give equal bytes.
    ///
    /// `metadata` holds at most one pair, since the format does not order pairs.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written; what stood there stays.
    pub fn write(&self, path: impl AsRef<Path>, metadata: Option<(&str, &str)>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self
            .to_bytes(metadata)
            .map_err(|what| Error::format(path, what, "report this as a bug"))?;
        files::write(path, bytes)
    }

    /// The content of a `.safetensors` file, or why there is none.
    pub(crate) fn to_bytes(&self, metadata: Option<(&str, &str)>) -> Result<Vec<u8>, String> {
        let metadata =
            metadata.map(|(key, value)| HashMap::from([(key.to_owned(), value.to_owned())]));
        safetensors::serialize(self.0.iter(), metadata).map_err(|error| error.to_string())
    }

    /// Reads the content of the `.safetensors` file at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if it is cut short or damaged.
    pub(crate) fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        super::file::parse_safetensors(path, bytes)
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// Refuses infinite and NaN values. `doing` names the purpose in the error, such as "starting from these weights".
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the first tensors with such values.
    pub fn check_finite(&self, doing: &'static str) -> Result<()> {
        let mut bad = Vec::new();
        for (name, tensor) in self.iter().filter(|(_, tensor)| tensor.dtype().is_float()) {
            // Zero times infinity or NaN is NaN.
            let sum = (tensor.to_dtype(DType::F32)? * 0.)?.sum_all()?;
            if sum.to_scalar::<f32>()?.is_nan() {
                bad.push(name);
            }
        }
        if bad.is_empty() {
            return Ok(());
        }
        let first = bad[..bad.len().min(5)].join(", ");
        Err(Error::unsupported(
            doing,
            format!("{} tensors have infinite or NaN values: {first}", bad.len()),
            "use a checkpoint from before the training diverged",
        ))
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

    /// Tensors whose name starts with `prefix`, without the prefix.
    pub fn strip_prefix(&self, prefix: &str) -> Self {
        let stripped = self
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)));
        stripped
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .collect()
    }
}

impl FromIterator<(String, Tensor)> for WeightMap {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

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
    fn files_round_trip_and_their_bytes_repeat() {
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
    fn a_truncated_file_is_refused_with_both_lengths() {
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
}
