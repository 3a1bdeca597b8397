//! The parts that configs can name.

use std::sync::LazyLock;

use mim_core::Result;
use mim_core::decoders::{DecoderSettings, decoders};
use mim_core::encoders::{EncoderSettings, encoders};
use mim_core::objectives::{ObjectiveSettings, objectives};
use mim_core::parts::{Part, PartInfo, Parts};
use mim_masking::{MaskerSettings, maskers};
use mim_targets::{TargetSettings, targets};

use crate::{FrozenConfig, SoftTokensConfig, TokensConfig};

/// Every part that a config can name. `Default` holds those of mim; custom ones can be added.
///
/// ```
/// use mim_masking::RandomMaskerConfig;
/// use mim_methods::registry::Registry;
///
/// let mut registry = Registry::default();
/// // `masker.type = "uniform"` is now another name of `random`.
/// registry.masker::<RandomMaskerConfig>("uniform")?;
/// assert!(registry.masker::<RandomMaskerConfig>("uniform").is_err());
/// # Ok::<(), mim_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Registry {
    /// Parts that choose what is hidden.
    pub maskers: Parts<dyn MaskerSettings>,
    /// Parts that map images to tokens.
    pub encoders: Parts<dyn EncoderSettings>,
    /// Parts that say what is predicted.
    pub targets: Parts<dyn TargetSettings>,
    /// Parts that predict.
    pub decoders: Parts<dyn DecoderSettings>,
    /// Parts that compare predictions with targets.
    pub objectives: Parts<dyn ObjectiveSettings>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            maskers: maskers(),
            encoders: encoders(),
            targets: targets()
                .with("tokens", |config: TokensConfig| Box::new(config))
                .with("soft_tokens", |config: SoftTokensConfig| Box::new(config))
                .with("features", |config: FrozenConfig| Box::new(config)),
            decoders: decoders(),
            objectives: objectives(),
        }
    }
}

static SHIPPED: LazyLock<Registry> = LazyLock::new(Registry::default);

impl Registry {
    /// The parts of mim.
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    /// Adds the masker with the settings `C`.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] if the name is taken.
    pub fn masker<C: Part + MaskerSettings>(&mut self, name: &str) -> Result<()> {
        self.maskers.add(name, |config: C| Box::new(config))
    }

    /// Adds the encoder with the settings `C`.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] if the name is taken.
    pub fn encoder<C: Part + EncoderSettings>(&mut self, name: &str) -> Result<()> {
        self.encoders.add(name, |config: C| Box::new(config))
    }

    /// Adds the target with the settings `C`.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] if the name is taken.
    pub fn target<C: Part + TargetSettings>(&mut self, name: &str) -> Result<()> {
        self.targets.add(name, |config: C| Box::new(config))
    }

    /// Adds the decoder with the settings `C`.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] if the name is taken.
    pub fn decoder<C: Part + DecoderSettings>(&mut self, name: &str) -> Result<()> {
        self.decoders.add(name, |config: C| Box::new(config))
    }

    /// Adds the objective with the settings `C`.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] if the name is taken.
    pub fn objective<C: Part + ObjectiveSettings>(&mut self, name: &str) -> Result<()> {
        self.objectives.add(name, |config: C| Box::new(config))
    }

    /// What documentation says of all parts: each kind with its parts.
    pub fn kinds(&self) -> [(&'static str, Vec<&PartInfo>); 5] {
        [
            (self.maskers.kind(), self.maskers.infos().collect()),
            (self.encoders.kind(), self.encoders.infos().collect()),
            (self.targets.kind(), self.targets.infos().collect()),
            (self.decoders.kind(), self.decoders.infos().collect()),
            (self.objectives.kind(), self.objectives.infos().collect()),
        ]
    }
}
