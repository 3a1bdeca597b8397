//! Recorded values for the tests of all crates: one loader and one copy of the data.
//!
//! A case is `<folder>/<stem>`. It is committed in `mim-testing/goldens`, or in
//! `mim-methods/tests/goldens` if it is a whole training step. Of some cases only the tensors that
//! tests read are committed. Missing data is a failure, never a skip.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "it serves tests, which fail by panicking"
)]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, WithDType};
use serde_json::Value;

/// A recorded case: its JSON and its tensors, which a table does not have.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The JSON file.
    pub json: Value,
    /// The tensors, named as in the file.
    pub tensors: HashMap<String, Tensor>,
}

/// The files of a committed case without their extension.
///
/// # Panics
///
/// If the case is not there.
#[track_caller]
pub fn committed(name: &str) -> PathBuf {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens");
    let methods = concat!(env!("CARGO_MANIFEST_DIR"), "/../mim-methods/tests/goldens");
    found(name, &[here, methods])
}

/// The files, without their extension, of a case that is too large to be committed.
///
/// Only tests with `#[ignore = "needs ../shared/goldens"]` may ask for it.
///
/// # Panics
///
/// If the case is not there.
#[track_caller]
pub fn shared(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/goldens");
    found(name, &[folder])
}

#[track_caller]
fn found(name: &str, folders: &[&str]) -> PathBuf {
    let stems = folders
        .iter()
        .map(|folder| PathBuf::from(folder).join(name));
    let mut present = stems.filter(|stem| stem.with_extension("json").is_file());
    match present.next() {
        Some(stem) => stem,
        None => panic!("the recorded case {name} is missing; it should be in {folders:?}"),
    }
}

impl Golden {
    /// Reads a committed case.
    ///
    /// # Panics
    ///
    /// If the case is not there or cannot be read.
    #[track_caller]
    pub fn load(name: &str) -> Self {
        Self::read(&committed(name))
    }

    /// Reads a case of [`shared`].
    ///
    /// # Panics
    ///
    /// If the case is not there or cannot be read.
    #[track_caller]
    pub fn load_shared(name: &str) -> Self {
        Self::read(&shared(name))
    }

    #[track_caller]
    fn read(stem: &std::path::Path) -> Self {
        let text = std::fs::read_to_string(stem.with_extension("json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let tensors = match json["kind"] == "table" {
            true => HashMap::new(),
            false => {
                let file = stem.with_extension("safetensors");
                candle_core::safetensors::load(file, &Device::Cpu).unwrap()
            }
        };
        Self { json, tensors }
    }

    /// A tensor.
    ///
    /// # Panics
    ///
    /// If there is no such tensor.
    #[track_caller]
    pub fn get(&self, name: &str) -> Tensor {
        match self.tensors.get(name) {
            Some(tensor) => tensor.clone(),
            None => panic!("the case has no tensor {name}"),
        }
    }

    /// The shape of a tensor.
    #[track_caller]
    pub fn dims(&self, name: &str) -> Vec<usize> {
        self.get(name).dims().to_vec()
    }

    /// All values of a tensor, in order.
    #[track_caller]
    pub fn values(&self, name: &str) -> Vec<f64> {
        self.flat(name, DType::F64)
    }

    /// All values of a tensor as `f32`.
    #[track_caller]
    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.flat(name, DType::F32)
    }

    /// All values of a tensor as ids.
    #[track_caller]
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.flat(name, DType::U32)
    }

    /// All values of a tensor as bytes.
    #[track_caller]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.flat(name, DType::U8)
    }

    /// The value of a tensor with one element.
    #[track_caller]
    pub fn scalar(&self, name: &str) -> f32 {
        let values = self.floats(name);
        assert_eq!(values.len(), 1, "{name} is not a scalar");
        values[0]
    }

    #[track_caller]
    fn flat<T: WithDType>(&self, name: &str, dtype: DType) -> Vec<T> {
        let xs = self.get(name).to_dtype(dtype).unwrap();
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }
}
