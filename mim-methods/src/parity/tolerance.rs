//! How far the numbers of a case may differ.

use std::collections::BTreeMap;
use std::path::Path;

use mim_core::{Error, Result};
use serde::Deserialize;

/// How far numbers may differ, and which are not compared.
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

/// A tensor, or a part of it, that is not compared.
#[derive(Debug, Clone, Deserialize)]
pub struct Ignore {
    /// Glob over tensor names.
    pub pattern: String,
    /// Rows of the first axis; absent: the whole tensor.
    pub rows: Option<Rows>,
}

/// Rows of the first axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Rows {
    /// The second of three equal blocks, the keys of `qkv`.
    #[serde(rename = "middle third")]
    MiddleThird,
    /// The first of two equal blocks, the keys of `kv`.
    #[serde(rename = "first half")]
    FirstHalf,
}

impl Tolerance {
    /// The elements of `name`, a tensor of `count` elements, that are not compared.
    ///
    /// Rows are blocks of the first axis, so they are also ranges of elements.
    pub(super) fn ignored(&self, name: &str, count: usize) -> Vec<std::ops::Range<usize>> {
        let matching = self
            .ignore
            .iter()
            .filter(|ignore| glob(&ignore.pattern, name));
        matching
            .map(|ignore| match ignore.rows {
                Some(Rows::MiddleThird) => count / 3..count / 3 * 2,
                Some(Rows::FirstHalf) => 0..count / 2,
                None => 0..count,
            })
            .collect()
    }
}

/// Bounds, each with the last step (counted from 1) for which it holds.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Piecewise(BTreeMap<usize, f64>);

impl Piecewise {
    /// The bound at `step`, counted from 1; the last one holds for all later steps.
    pub(super) fn at(&self, step: usize) -> f64 {
        let last = || self.0.values().next_back();
        let own = self.0.range(step..).next().map(|(_, bound)| bound);
        own.or_else(last).copied().unwrap_or_default()
    }
}

/// How far the numbers of a trajectory may differ; all tolerances are relative.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DriftTolerance {
    loss_rtol: Piecewise,
    #[serde(default)]
    loss_rtol_term: BTreeMap<String, Piecewise>,
    grad_norm_rtol: Piecewise,
    param_rtol: Piecewise,
    param_rtol_tensor: BTreeMap<usize, BTreeMap<String, f64>>,
    delta_rtol: Piecewise,
    delta_rtol_tensor: BTreeMap<usize, BTreeMap<String, f64>>,
    /// Of the features after the last step.
    pub(super) features_rtol: f64,
    /// Of learning rates and other scheduled numbers.
    pub(super) lr_rtol: f64,
}

impl DriftTolerance {
    /// The `tolerance` of a case's JSON.
    pub(super) fn of_case(text: &str, path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Header {
            tolerance: DriftTolerance,
        }
        let header: Header = serde_json::from_str(text).map_err(|error| {
            let what = format!("this is no trajectory ({error})");
            Error::format(path, what, "see the format of golden cases")
        })?;
        Ok(header.tolerance)
    }

    /// The same with one bound for losses, gradient norms and features.
    pub(super) fn with(self, rtol: f64) -> Self {
        let all = || Piecewise(BTreeMap::from([(1, rtol)]));
        Self {
            loss_rtol: all(),
            loss_rtol_term: BTreeMap::new(),
            grad_norm_rtol: all(),
            features_rtol: rtol,
            ..self
        }
    }

    /// The bound on the loss, or a term of it, called `name`.
    pub(super) fn loss(&self, name: &str) -> &Piecewise {
        self.loss_rtol_term.get(name).unwrap_or(&self.loss_rtol)
    }

    /// The bound on the norm of the gradients.
    pub(super) fn grad_norm(&self) -> &Piecewise {
        &self.grad_norm_rtol
    }

    /// The bounds on the parameter `name` after `steps` steps: on its values, and on how far it has moved.
    pub(super) fn parameter(&self, steps: usize, name: &str) -> (f64, f64) {
        let of = |all: &Piecewise, single: &BTreeMap<usize, BTreeMap<String, f64>>| {
            let own = single.get(&steps).and_then(|own| own.get(name));
            own.copied().unwrap_or_else(|| all.at(steps))
        };
        (
            of(&self.param_rtol, &self.param_rtol_tensor),
            of(&self.delta_rtol, &self.delta_rtol_tensor),
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_any_text() {
        assert!(glob("grad.*attn.qkv.bias", "grad.blocks.0.attn.qkv.bias"));
        assert!(glob("grad.*", "grad.x") && glob("a*b*c", "a1b2c") && glob("a", "a"));
        assert!(!glob("grad.*bias", "grad.weight") && !glob("a*b", "ac"));
    }

    #[test]
    fn a_bound_holds_up_to_its_step() {
        let bounds: Piecewise = serde_json::from_str(r#"{"1": 0.5, "10": 2, "100": 3}"#).unwrap();
        let found = [1, 2, 10, 11, 100, 101].map(|step| bounds.at(step));
        assert_eq!(found, [0.5, 2., 2., 3., 3., 3.]);
    }

    #[test]
    fn unknown_rows_are_refused() {
        let read = |rows: &str| {
            let text = format!(r#"{{"pattern": "grad.*", "rows": {rows}, "reason": "zero"}}"#);
            serde_json::from_str::<Ignore>(&text).map(|ignore| ignore.rows)
        };
        assert_eq!(read(r#""middle third""#).unwrap(), Some(Rows::MiddleThird));
        assert_eq!(read("null").unwrap(), None);
        assert!(read(r#""middle_third""#).is_err());
    }
}
