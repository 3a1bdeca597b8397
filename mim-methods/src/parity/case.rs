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

use super::{Problem, Tolerance};

/// A golden case.
#[derive(Debug, Clone)]
pub struct Case {
    path: PathBuf,
    pub(super) header: Header,
    pub(super) tensors: WeightMap,
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
pub(super) struct Header {
    kind: String,
    pub(super) method: String,
    case: String,
    pub(super) config: BTreeMap<String, serde_json::Value>,
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
        let tensors = path.with_extension("safetensors");
        let tensors = match tensors.exists() || header.kind != "table" {
            true => WeightMap::read(tensors)?,
            false => WeightMap::default(),
        };
        Ok(Self {
            path: path.to_owned(),
            header,
            tensors,
            read: Arc::default(),
        })
    }

    /// `method/case`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.header.method, self.header.case)
    }

    /// `method`, `component`, `evaluation` or `table`.
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

    /// An error about this case.
    pub fn bad(&self, what: String) -> Error {
        Error::format(&self.path, what, "see the format of golden cases")
    }
}

/// All cases at `path`: a case, or a folder searched through. JSON objects without a `kind` are no cases.
///
/// # Errors
///
/// If there is no case at all, or a case or a JSON file cannot be read.
pub fn find(path: &Path) -> Result<Vec<Case>> {
    if path.is_file() {
        return Ok(vec![Case::read(path)?]);
    }
    let mut files = Vec::new();
    walk(path, &mut files)?;
    files.sort();
    let mut cases = Vec::new();
    for file in &files {
        if is_case(file)? {
            cases.push(Case::read(file)?);
        }
    }
    if cases.is_empty() {
        return Err(Error::format(
            path,
            "there is no golden case in this folder",
            "give a case or a folder of cases",
        ));
    }
    Ok(cases)
}

/// Whether a JSON file says that it is a case.
fn is_case(path: &Path) -> Result<bool> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
        let what = format!("this is not JSON ({error})");
        Error::format(path, what, "mend it or take it out of the folder")
    })?;
    Ok(json.get("kind").is_some())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    Ok(())
}
