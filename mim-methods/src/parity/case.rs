//! Reading golden cases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};
use mim_core::weights::WeightMap;
use mim_core::{Error, PatchGrid, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{DriftTolerance, Problem, Tolerance};

/// A golden case.
#[derive(Debug, Clone)]
pub struct Case {
    path: PathBuf,
    header: Header,
    tensors: WeightMap,
    /// Of a trajectory.
    drift: Option<DriftTolerance>,
    /// Settings that were asked for.
    read: Arc<Mutex<BTreeSet<String>>>,
}

/// Settings that inform and are no settings of a method: a reader may check them. What they lead to
/// is recorded among the inputs.
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
struct Header {
    kind: String,
    method: String,
    case: String,
    config: BTreeMap<String, serde_json::Value>,
    tolerance: Tolerance,
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

    /// The inputs of one step of a trajectory, from 0: of each draw the step's own, and of what is recorded for each
    /// image the rows of its batch.
    pub(super) fn at_step(&self, index: usize) -> Result<Self> {
        let steps = self.required("expect.loss")?.elem_count();
        let rows: usize = self.setting_or("batch_size", 4)?;
        let mut tensors = WeightMap::default();
        for (name, all) in self.group("input.").iter() {
            let first = all.dim(0)?;
            let own = if first == steps {
                all.get(index)?
            } else {
                let ids = (0..rows).map(|row| ((rows * index + row) % first) as i64);
                let ids = Tensor::from_iter(ids, all.device())?;
                all.index_select(&ids, 0)?
            };
            tensors.insert(format!("input.{name}"), own);
        }
        Ok(Self {
            tensors,
            ..self.clone()
        })
    }

    /// A setting, or none where the case leaves it to the paper.
    ///
    /// # Errors
    ///
    /// If the setting has another type.
    pub fn setting<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.informs(&[key]);
        let Some(value) = self.header.config.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let read = serde_json::from_value(value.clone());
        read.map(Some)
            .map_err(|error| self.bad(format!("setting `{key}`: {error}")))
    }

    /// Refuses another value of a setting than `value`, the only one that our method can have.
    pub(super) fn fixed<T>(&self, key: &str, value: T) -> super::Result<()>
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

    /// Notes that these settings only inform about this method, or have been read.
    pub(super) fn informs(&self, keys: &[&str]) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.extend(keys.iter().map(|&key| key.to_owned()));
    }

    /// Checks that every setting was read.
    ///
    /// # Errors
    ///
    /// If one was not: the method may not be that of the case.
    pub(super) fn all_read(&self) -> Result<()> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |key: &str| {
            read.contains(key) || INFORMATION.contains(&key) || key.starts_with("expect_")
        };
        let keys = self.header.config.keys().map(String::as_str);
        let unread: Vec<_> = keys.filter(|key| !known(key)).collect();
        match unread.is_empty() {
            true => Ok(()),
            false => Err(self.bad(format!("nobody reads the settings {unread:?}"))),
        }
    }

    /// A setting, or `default` where the case leaves it to the paper.
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

    /// One tensor.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// One tensor that must be there.
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

    /// The case itself and, where gradients `grad_aligned.` are recorded, the same with predictions of
    /// visible patches compared in their own order (DMJD): its outputs end in `_aligned`, it has no step.
    pub(super) fn variants(&self) -> (Self, Option<Self>) {
        const ALIGNED: &str = "_aligned";
        if self.group("grad_aligned.").is_empty() {
            return (self.clone(), None);
        }
        let (mut first, mut second) = (self.clone(), self.clone());
        (first.tensors, second.tensors) = Default::default();
        for (name, tensor) in self.tensors.iter() {
            let plain = name.replacen(ALIGNED, "", 1);
            let of_second = plain != name;
            let replaced = ["grad.", "step."]
                .iter()
                .any(|group| name.starts_with(group))
                || name == "expect.loss"
                || self.tensor(&format!("{name}{ALIGNED}")).is_some();
            if !of_second {
                first.tensors.insert(name, tensor.clone());
            }
            if of_second || !replaced {
                second.tensors.insert(plain, tensor.clone());
            }
        }
        let order = serde_json::Value::from("aligned");
        second
            .header
            .config
            .insert("visible_order".to_owned(), order);
        second.header.config.remove("optimizer");
        (first, Some(second))
    }

    /// An error about this case.
    pub fn bad(&self, what: String) -> Error {
        Error::format(&self.path, what, "see the format of golden cases")
    }
}
