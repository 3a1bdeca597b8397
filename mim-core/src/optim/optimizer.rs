//! The optimizer trait, and the choice of an optimizer.

use candle_core::Var;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::{AdamW, AdamWConfig, Gradients, Lars, LarsConfig};
use crate::weights::{LoadReport, WeightMap};
use crate::{Error, Result};

/// Updates parameters from their gradients.
pub trait Optimizer: std::fmt::Debug + Send {
    /// Updates every parameter that has a gradient.
    ///
    /// # Errors
    ///
    /// If a gradient's shape differs from its parameter's.
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()>;

    /// Sets the weight decay of the following steps.
    fn set_weight_decay(&mut self, weight_decay: f64);

    /// State that later steps depend on, besides parameters and settings, by name.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    fn state(&self) -> Result<WeightMap>;

    /// Restores a state from [`Optimizer::state`].
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] if it belongs to other parameters.
    fn load_state(&mut self, state: &WeightMap) -> Result<()>;
}

/// Settings of an optimizer, `type = "adamw"` (the default) or `"lars"`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OptimizerConfig {
    /// [`AdamW`].
    #[serde(rename = "adamw")]
    AdamW(AdamWConfig),
    /// [`Lars`].
    Lars(LarsConfig),
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::AdamW(AdamWConfig::default())
    }
}

impl From<AdamWConfig> for OptimizerConfig {
    fn from(config: AdamWConfig) -> Self {
        Self::AdamW(config)
    }
}

impl From<LarsConfig> for OptimizerConfig {
    fn from(config: LarsConfig) -> Self {
        Self::Lars(config)
    }
}

// Implemented by hand, since settings without a `type` are AdamW's.
impl<'de> Deserialize<'de> for OptimizerConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let mut fields = serde_json::Map::deserialize(from)?;
        let choice = fields.remove("type").unwrap_or_else(|| "adamw".into());
        let fields = serde_json::Value::Object(fields);
        match choice.as_str() {
            Some("adamw") => AdamWConfig::deserialize(fields).map(Self::AdamW),
            Some("lars") => LarsConfig::deserialize(fields).map(Self::Lars),
            _ => {
                let choice = choice.to_string();
                let name = choice.trim_matches('"');
                return Err(D::Error::unknown_variant(name, &["adamw", "lars"]));
            }
        }
        .map_err(D::Error::custom)
    }
}

impl OptimizerConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first setting out of range.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::AdamW(config) => config.validate(),
            Self::Lars(config) => config.validate(),
        }
    }

    /// Builds the optimizer for these parameters.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is out of range; otherwise it fails only if
    /// the device does.
    pub fn build(self, trainable: Vec<(String, Var)>) -> Result<Box<dyn Optimizer>> {
        Ok(match self {
            Self::AdamW(config) => Box::new(AdamW::new(config, trainable)?),
            Self::Lars(config) => Box::new(Lars::new(config, trainable)?),
        })
    }
}

/// Refuses a state with names other than `known`, or with other problems found while loading.
pub(super) fn all_known(
    mut report: LoadReport,
    mut known: Vec<String>,
    state: &WeightMap,
) -> Result<()> {
    known.sort_unstable();
    let unknown = state.names().filter(|name| {
        known
            .binary_search_by(|own| own.as_str().cmp(name))
            .is_err()
    });
    report.unexpected = unknown.map(str::to_owned).collect();
    if report.is_complete() {
        return Ok(());
    }
    Err(Error::Weights(
        Box::new(report),
        "resume with the optimizer state of this run".into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> std::result::Result<OptimizerConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn adamw_is_the_default_type() {
        let plain = read("betas = [0.9, 0.999]\neps = 1").unwrap();
        assert_eq!(
            plain,
            read("type = \"adamw\"\nbetas = [0.9, 0.999]\neps = 1.0").unwrap()
        );
        let lars = LarsConfig {
            momentum: 0.5,
            ..LarsConfig::default()
        };
        assert_eq!(
            read("type = \"lars\"\nmomentum = 0.5").unwrap(),
            lars.into()
        );
    }

    #[test]
    fn configs_survive_a_round_trip() {
        for config in [OptimizerConfig::default(), LarsConfig::default().into()] {
            assert_eq!(read(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, part) in [
            (
                "type = \"adam\"",
                "unknown variant `adam`, expected `adamw` or `lars`",
            ),
            ("momentun = 1", "unknown field `momentun`"),
            ("type = \"lars\"\nbetas = [0, 0]", "unknown field `betas`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
