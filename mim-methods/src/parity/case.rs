//! Reading golden cases.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use mim_core::weights::WeightMap;
use mim_core::{Error, PatchGrid, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A golden case.
#[derive(Debug, Clone)]
pub struct Case {
    path: PathBuf,
    header: Header,
    tensors: WeightMap,
}

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

/// How far numbers may differ, and which mean nothing.
#[derive(Debug, Clone, Deserialize)]
pub struct Tolerance {
    /// Relative, for outputs.
    pub rtol: f64,
    /// Absolute, for outputs.
    pub atol: f64,
    /// Relative, for gradients.
    pub grad_rtol: f64,
    /// Absolute, for gradients.
    pub grad_atol: f64,
    /// Absolute, for parameters after a step.
    pub step_atol: f64,
    /// Smallest gradient whose step is compared end to end.
    pub step_min_abs_grad: f64,
    /// Tensors, or parts of them, that are not compared.
    pub ignore: Vec<Ignore>,
}

/// A tensor, or a part of it, that means nothing to compare.
#[derive(Debug, Clone, Deserialize)]
pub struct Ignore {
    /// Glob over tensor names.
    pub pattern: String,
    /// `middle third` or `first half` of the first axis; absent: the whole tensor.
    pub rows: Option<String>,
}

impl Tolerance {
    /// The elements of `name`, a tensor of `count` elements, that are not compared.
    ///
    /// Rows are blocks of the first axis, so they are ranges of elements too.
    pub(super) fn ignored(&self, name: &str, count: usize) -> Vec<std::ops::Range<usize>> {
        let matching = self
            .ignore
            .iter()
            .filter(|ignore| glob(&ignore.pattern, name));
        matching
            .map(|ignore| match ignore.rows.as_deref() {
                Some("middle third") => count / 3..count / 3 * 2,
                Some("first half") => 0..count / 2,
                _ => 0..count,
            })
            .collect()
    }
}

/// Whether `name` matches `pattern`, where `*` stands for any text.
fn glob(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len())
                .filter(|&at| tail.is_char_boundary(at))
                .any(|at| glob(rest, &tail[at..]))
        }),
    }
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
        let Some(value) = self.header.config.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let read = serde_json::from_value(value.clone());
        read.map(Some)
            .map_err(|error| self.bad(format!("setting `{key}`: {error}")))
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

/// All cases at `path`: a case, or a folder searched through. Other files in a folder are passed over.
///
/// # Errors
///
/// If there is no case at all.
pub fn find(path: &Path) -> Result<Vec<Case>> {
    if path.is_file() {
        return Ok(vec![Case::read(path)?]);
    }
    let mut files = Vec::new();
    walk(path, &mut files)?;
    files.sort();
    let is_case = |path: &PathBuf| {
        let header = fs::read_to_string(path)
            .ok()
            .and_then(|text| serde_json::from_str::<Header>(&text).ok());
        header.is_some()
    };
    let cases = files
        .iter()
        .filter(|path| is_case(path))
        .map(|path| Case::read(path))
        .collect::<Result<Vec<_>>>()?;
    if cases.is_empty() {
        return Err(Error::format(
            path,
            "there is no golden case in this folder",
            "give a case or a folder of cases",
        ));
    }
    Ok(cases)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_any_text() {
        assert!(glob("grad.*attn.qkv.bias", "grad.blocks.0.attn.qkv.bias"));
        assert!(glob("grad.*", "grad.x") && glob("a*b*c", "a1b2c") && glob("a", "a"));
        assert!(!glob("grad.*bias", "grad.weight") && !glob("a*b", "ac"));
    }
}
