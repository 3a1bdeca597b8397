//! Reading golden cases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor, WithDType};
use mim_core::weights::WeightMap;
use mim_core::{Error, PatchGrid, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{DriftTolerance, Problem, Tolerance};

/// A golden case.
#[derive(Debug, Clone)]
pub struct Case {
    path: PathBuf,
    pub(super) header: Header,
    pub(super) tensors: WeightMap,
    /// Of a trajectory.
    drift: Option<DriftTolerance>,
    /// Settings that have been read.
    pub(super) read: Arc<Mutex<BTreeSet<String>>>,
}

/// Settings that are only for information, not settings of a method; a reader may check them. Their effect is recorded
/// among the inputs.
const INFORMATION: &[&str] = &[
    "aliases",
    "batch",
    "batch_size",
    "ema_schedule",
    "hf_config",
    "schedule",
    "seed",
];

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Header {
    kind: String,
    pub(super) method: String,
    case: String,
    pub(super) config: BTreeMap<String, serde_json::Value>,
    tolerance: Tolerance,
    /// Of a table.
    values: Option<serde_json::Value>,
    // Their presence tells a case from other JSON files.
    #[expect(dead_code, reason = "required, not read")]
    source: serde_json::Value,
    #[expect(dead_code, reason = "required, not read")]
    tensors: serde_json::Value,
    #[expect(dead_code, reason = "required, not read")]
    notes: serde_json::Value,
}

impl Case {
    /// Reads a case.
    ///
    /// # Errors
    ///
    /// If it is not a case, or its tensors cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let header: Header = serde_json::from_str(&text).map_err(|error| {
            Error::format(
                path,
                format!("this is not a golden case ({error})"),
                "give a case or a folder of cases",
            )
        })?;
        let drift = match header.kind.as_str() {
            "trajectory" => Some(DriftTolerance::of_case(&text, path)?),
            _ => None,
        };
        let tensors = path.with_extension("safetensors");
        let tensors = match tensors.exists() || header.kind != "table" {
            true => WeightMap::read(tensors)?,
            false => WeightMap::default(),
        };
        Ok(Self {
            path: path.to_owned(),
            header,
            tensors,
            drift,
            read: Arc::default(),
        })
    }

    /// `method/case`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.header.method, self.header.case)
    }

    /// `method`, `component`, `evaluation`, `table` or `trajectory`.
    pub fn kind(&self) -> &str {
        &self.header.kind
    }

    /// The method or component.
    pub fn method(&self) -> &str {
        &self.header.method
    }

    /// How far numbers may differ.
    pub fn tolerance(&self) -> &Tolerance {
        &self.header.tolerance
    }

    /// How far the numbers of a trajectory may differ.
    pub(super) fn drift(&self) -> Result<&DriftTolerance> {
        self.drift
            .as_ref()
            .ok_or_else(|| self.bad("it is no trajectory".to_owned()))
    }

    /// A setting; `None` if the case leaves it to the paper. The key may be a dotted path: `decoder.depth`.
    ///
    /// # Errors
    ///
    /// If the setting has another type.
    pub fn setting<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let mut keys = key.split('.');
        let first = keys.next().unwrap_or_default();
        self.informs(&[first]);
        let first = self.header.config.get(first);
        let value = first.and_then(|first| keys.try_fold(first, |table, key| table.get(key)));
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let read = serde_json::from_value(value.clone());
        read.map(Some)
            .map_err(|error| self.bad(format!("setting `{key}`: {error}")))
    }

    /// Refuses any value of a setting other than `value`, the only one that our method supports.
    ///
    /// # Errors
    ///
    /// If it has another value or another type.
    pub fn fixed<T>(&self, key: &str, value: T) -> super::Result<()>
    where
        T: DeserializeOwned + PartialEq + fmt::Display,
    {
        match self.setting::<T>(key)? {
            Some(found) if found != value => Err(Problem::unknown(format!(
                "{} with {key} = {found}, only {value}",
                self.method()
            ))),
            _ => Ok(()),
        }
    }

    /// Notes that these settings are only for information, or have been read.
    pub fn informs(&self, keys: &[&str]) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.extend(keys.iter().map(|&key| key.to_owned()));
    }

    /// Checks that every setting was read.
    ///
    /// # Errors
    ///
    /// If one was not: the method may then differ from that of the case.
    pub(super) fn all_read(&self) -> Result<()> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |key: &str| {
            read.contains(key) || INFORMATION.contains(&key) || key.starts_with("expect_")
        };
        let keys = self.header.config.keys().map(String::as_str);
        let unread: Vec<_> = keys.filter(|key| !known(key)).collect();
        match unread.is_empty() {
            true => Ok(()),
            false => Err(self.bad(format!("the settings {unread:?} are not read"))),
        }
    }

    /// A setting; `default` if the case leaves it to the paper.
    ///
    /// # Errors
    ///
    /// If the setting has another type.
    pub fn setting_or<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T> {
        Ok(self.setting(key)?.unwrap_or(default))
    }

    /// The tensors under a prefix such as `param.`, named without it.
    pub fn group(&self, prefix: &str) -> WeightMap {
        self.tensors.strip_prefix(prefix)
    }

    /// A required setting.
    ///
    /// # Errors
    ///
    /// If it is not, or has another type.
    pub fn needs<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let none = || self.bad(format!("there is no setting `{key}`"));
        self.setting(key)?.ok_or_else(none)
    }

    /// The numbers of a table.
    ///
    /// # Errors
    ///
    /// If there are none, or they have another form.
    pub fn values<T: DeserializeOwned>(&self) -> Result<T> {
        let values = self.header.values.clone().unwrap_or_default();
        serde_json::from_value(values).map_err(|error| self.bad(format!("values: {error}")))
    }

    /// Names of everything that the authors' code produced: outputs, gradients, and `values.<key>` of a table.
    pub(super) fn recorded(&self) -> Vec<String> {
        let tensors = self.tensors.names().map(str::to_owned);
        let given = tensors.filter(|name| name.starts_with("expect.") || name.starts_with("grad"));
        let values = self.header.values.as_ref();
        let keys = values.and_then(serde_json::Value::as_object);
        let keys = keys.into_iter().flat_map(serde_json::Map::keys);
        given
            .chain(keys.map(|key| format!("values.{key}")))
            .collect()
    }

    /// All values of a required tensor, in order.
    ///
    /// # Errors
    ///
    /// If it is not there.
    pub fn flat<T: WithDType>(&self, name: &str) -> Result<Vec<T>> {
        let values = self.required(name)?.to_dtype(T::DTYPE)?;
        Ok(values.flatten_all()?.to_vec1()?)
    }

    /// A required tensor, on a device.
    ///
    /// # Errors
    ///
    /// If it is not there, or the device fails.
    pub fn on(&self, name: &str, device: &Device) -> Result<Tensor> {
        Ok(self.required(name)?.to_device(device)?)
    }

    /// One tensor.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// One required tensor.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn required(&self, name: &str) -> Result<&Tensor> {
        self.tensor(name)
            .ok_or_else(|| self.bad(format!("there is no tensor `{name}`")))
    }

    /// A mask tensor `[rows, ...]` of ones and zeros as bytes.
    ///
    /// # Errors
    ///
    /// If it is not there.
    pub fn bits(&self, name: &str, grid: PatchGrid) -> Result<Vec<u8>> {
        let mask = self.required(name)?;
        if mask.elem_count() % grid.len() != 0 {
            return Err(self.bad(format!(
                "`{name}` {:?} is not on the grid {grid}",
                mask.dims()
            )));
        }
        Ok(mask.to_dtype(DType::U8)?.flatten_all()?.to_vec1()?)
    }

    /// An error about this case.
    pub fn bad(&self, what: String) -> Error {
        Error::format(&self.path, what, "see the format of golden cases")
    }
}
