//! Parameter groups: weight decay and learning-rate factors by name.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Selects parameters without weight decay. `Default` is timm's rule, as used by MAE: 1-D tensors and biases.
///
/// The class token and the mask token are not 1-D, so they decay unless they are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoDecay {
    /// Tensors of one axis (norms, biases, layer scale). Default true.
    pub one_dimensional: bool,
    /// Suffixes of names. Default `[".bias"]`.
    pub suffixes: Vec<String>,
    /// Whole names. Default none.
    pub names: Vec<String>,
    /// Substrings of names. Default none.
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
    /// Whether the parameter has no weight decay.
    pub fn holds(&self, name: &str, shape: &[usize]) -> bool {
        (self.one_dimensional && shape.len() <= 1)
            || self.suffixes.iter().any(|suffix| name.ends_with(suffix))
            || self.names.iter().any(|known| known == name)
            || self.contains.iter().any(|part| name.contains(part))
    }
}

/// Parameters whose learning rate and weight decay are scaled. If several groups hold a
/// parameter, their factors multiply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParamGroup {
    /// Substrings of names. Default none.
    pub contains: Vec<String>,
    /// Whole names. Default none.
    pub names: Vec<String>,
    /// Factor of the learning rate; with 0 they never change. Default 1.
    pub lr_scale: f64,
    /// Factor of the weight decay. Default 1.
    pub decay_scale: f64,
}

impl Default for ParamGroup {
    fn default() -> Self {
        Self {
            contains: vec![],
            names: vec![],
            lr_scale: 1.,
            decay_scale: 1.,
        }
    }
}

impl ParamGroup {
    /// Checks the factors.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a factor is negative, or the group names no parameter.
    pub fn validate(&self) -> Result<()> {
        for (field, factor) in [
            ("groups.lr_scale", self.lr_scale),
            ("groups.decay_scale", self.decay_scale),
        ] {
            if !(factor >= 0. && factor.is_finite()) {
                let (why, fix) = ("a factor cannot be negative", "use 0 or more");
                return Err(Error::config("optimizer", field, factor, why, fix));
            }
        }
        if self.contains.is_empty() && self.names.is_empty() {
            let (why, fix) = ("it selects no parameter", "give substrings of names");
            return Err(Error::config(
                "optimizer",
                "groups.contains",
                "[]",
                why,
                fix,
            ));
        }
        Ok(())
    }

    /// Whether the group holds the parameter.
    pub fn holds(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
            || self.contains.iter().any(|part| name.contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_select_by_name_and_refuse_invalid_factors() {
        let group = ParamGroup {
            contains: vec!["heads.".to_owned()],
            lr_scale: 0.5,
            ..ParamGroup::default()
        };
        assert!(group.validate().is_ok());
        assert!(group.holds("heads.main.weight") && !group.holds("norm.weight"));
        let error = ParamGroup::default().validate().unwrap_err().to_string();
        assert!(error.contains("groups.contains"), "{error}");
        let wrong = ParamGroup {
            decay_scale: -1.,
            ..group
        };
        assert!(wrong.validate().is_err());
    }

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
