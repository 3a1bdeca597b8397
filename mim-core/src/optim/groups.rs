//! Which parameters decay, and which have a rate of their own.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

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

/// Parameters whose learning rate and weight decay are multiples of the others'. Of several groups that hold a
/// parameter all factors count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParamGroup {
    /// Names that contain so. Default none.
    pub contains: Vec<String>,
    /// Whole names. Default none.
    pub names: Vec<String>,
    /// What their learning rate is multiplied by; with 0 they never move. Default 1.
    pub lr_scale: f64,
    /// What their weight decay is multiplied by. Default 1.
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
    /// [`Error::InvalidConfig`] if one is negative, or no name is given.
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
            let (why, fix) = ("no parameter is in it", "give parts of names");
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

    /// Whether the parameter is among them.
    pub fn holds(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
            || self.contains.iter().any(|part| name.contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_by_name_and_refuse_factors_that_make_no_sense() {
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
