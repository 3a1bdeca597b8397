//! Writes weights as one file, or as several with an index.

use std::path::Path;

use candle_core::DType;
use serde_json::json;

use super::WeightMap;
use crate::{Result, files};

impl WeightMap {
    /// Converts all floating-point tensors to `dtype`; integers are kept.
    ///
    /// # Errors
    ///
    /// Fails only if candle lacks the conversion.
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        let cast = self.iter().map(|(name, tensor)| {
            let tensor = match tensor.dtype().is_float() {
                true => tensor.to_dtype(dtype)?,
                false => tensor.clone(),
            };
            Ok((name.to_owned(), tensor))
        });
        cast.collect()
    }

    /// Total bytes of all values.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(_, tensor)| size(tensor)).sum()
    }

    /// Writes `model.safetensors` into `folder`. If that would exceed `most` bytes, writes files of at most that size
    /// (a larger tensor gets its own file) and `model.safetensors.index.json`, as transformers does. Writes all files or
    /// none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if a file cannot be written.
    pub fn write_folder(&self, folder: &Path, most: usize) -> Result<()> {
        files::fill_folder(folder, |new| self.write_into(new, most))
    }

    /// Writes the same files into a folder that is still temporary ([`files::fill_folder`]).
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if something cannot be written.
    pub fn write_into(&self, folder: &Path, most: usize) -> Result<()> {
        let format = Some(("format", "pt"));
        let shards = self.shards(most);
        if let [_] | [] = shards.as_slice() {
            return self.write(folder.join("model.safetensors"), format);
        }
        let mut weight_map = serde_json::Map::new();
        for (number, shard) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
            shard.write(folder.join(&file), format)?;
            weight_map.extend(shard.names().map(|name| (name.to_owned(), json!(file))));
        }
        let index = json!({ "metadata": { "total_size": self.bytes() }, "weight_map": weight_map });
        let path = folder.join("model.safetensors.index.json");
        files::write_new(&path, format!("{index:#}\n"))
    }

    fn shards(&self, most: usize) -> Vec<Self> {
        let (mut shards, mut held) = (Vec::<Self>::new(), 0);
        for (name, tensor) in self.iter() {
            let size = size(tensor);
            match shards.last_mut() {
                Some(shard) if held + size <= most => shard.insert(name, tensor.clone()),
                _ => {
                    shards.push([(name.to_owned(), tensor.clone())].into_iter().collect());
                    held = 0;
                }
            }
            held += size;
        }
        shards
    }
}

fn size(tensor: &candle_core::Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn large_weights_are_sharded_and_read_as_one() {
        let tensor = |count: usize| Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap();
        let weights: WeightMap = [("a", 10), ("b", 2), ("c", 2), ("d", 3)]
            .map(|(name, count)| (name.to_owned(), tensor(count)))
            .into_iter()
            .collect();
        let count = |most: usize| {
            let dir = tempfile::tempdir().unwrap();
            weights.write_folder(dir.path(), most).unwrap();
            let read = WeightMap::read(dir.path()).unwrap();
            for (name, tensor) in weights.iter() {
                let back = read.get(name).unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(back, tensor.to_vec1::<f32>().unwrap());
            }
            assert_eq!(read.len(), 4);
            std::fs::read_dir(dir.path()).unwrap().count()
        };
        // One file; three and an index; one per tensor.
        assert_eq!((count(1000), count(16), count(1)), (1, 4, 5));
    }

    #[test]
    fn integers_keep_their_dtype() {
        let mut weights = WeightMap::default();
        weights.insert("f", Tensor::new(&[1.5f64], &Device::Cpu).unwrap());
        weights.insert("i", Tensor::new(&[3i64], &Device::Cpu).unwrap());
        let half = weights.cast(DType::F16).unwrap();
        assert_eq!(half.get("f").unwrap().dtype(), DType::F16);
        assert_eq!(half.get("i").unwrap().dtype(), DType::I64);
    }
}
