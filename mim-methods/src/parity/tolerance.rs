//! How far the numbers of a case may differ.

use serde::Deserialize;

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
    /// Rows are blocks of the first axis, so they are ranges of elements too.
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
