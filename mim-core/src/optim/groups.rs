//! Which parameters decay.

use serde::{Deserialize, Serialize};

/// Parameters without weight decay; `Default` is timm's rule, as used by MAE: 1-D tensors and biases.
///
/// The class token and the mask token are not 1-D, so they decay unless they are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoDecay {
    /// Tensors of one axis (norms, biases, layer scale). Default true.
    pub one_dimensional: bool,
    /// Names that end so. Default `[".bias"]`.
    pub suffixes: Vec<String>,
    /// Whole names. Default none.
    pub names: Vec<String>,
    /// Names that contain so. Default none.
    pub contains: Vec<String>,
}

impl Default for NoDecay {
    fn default() -> Self {
        Self {
            one_dimensional: true,
            suffixes: vec![".bias".to_owned()],
            names: vec![],
            contains: vec![],
        }
    }
}

impl NoDecay {
    /// Whether the parameter is left undecayed.
    pub fn holds(&self, name: &str, shape: &[usize]) -> bool {
        (self.one_dimensional && shape.len() <= 1)
            || self.suffixes.iter().any(|suffix| name.ends_with(suffix))
            || self.names.iter().any(|known| known == name)
            || self.contains.iter().any(|part| name.contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_timms_rule() {
        let rule = NoDecay::default();
        assert!(rule.holds("norm.weight", &[8]) && rule.holds("fc1.bias", &[8]));
        assert!(!rule.holds("cls_token", &[1, 1, 8]) && !rule.holds("fc1.weight", &[8, 8]));
        let beit = NoDecay {
            names: vec!["cls_token".into()],
            ..rule
        };
        assert!(beit.holds("cls_token", &[1, 1, 8]) && !beit.holds("mask_token", &[1, 1, 8]));
    }
}
