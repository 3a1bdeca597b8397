//! The parts and methods that configs can name.

use std::sync::OnceLock;

use mim_core::decoders::{DecoderSettings, decoders};
use mim_core::encoders::{EncoderSettings, encoders};
use mim_core::objectives::{ObjectiveSettings, objectives};
use mim_core::parts::{Part, PartInfo, Parts};
use mim_core::{Error, Result};
use mim_masking::{MaskerSettings, maskers};
use mim_targets::{TargetSettings, targets};

use super::Entry;
use crate::{FrozenConfig, METHODS, SoftTokensConfig, TokensConfig};

/// Every method and part that a config can name. `Default` holds those of mim; you can add more.
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
    /// Maskers: they choose which patches are hidden.
    pub maskers: Parts<dyn MaskerSettings>,
    /// Encoders: they map images to tokens.
    pub encoders: Parts<dyn EncoderSettings>,
    /// Targets: they define what is predicted.
    pub targets: Parts<dyn TargetSettings>,
    /// Decoders: they predict.
    pub decoders: Parts<dyn DecoderSettings>,
    /// Objectives: they compare predictions with targets.
    pub objectives: Parts<dyn ObjectiveSettings>,
    methods: Vec<Entry>,
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
            methods: METHODS.to_vec(),
        }
    }
}

static CURRENT: OnceLock<Registry> = OnceLock::new();

impl Registry {
    /// The registry of this program: the one given to [`Registry::install`], or else mim's own methods and parts.
    pub fn current() -> &'static Self {
        CURRENT.get_or_init(Self::default)
    }

    /// Makes this the registry of the program: configs, runs and the command line then use its methods and parts.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the program has already read a config or installed a registry.
    pub fn install(self) -> Result<()> {
        CURRENT.set(self).map_err(|_| {
            Error::unsupported(
                "a second registry",
                "the program already uses one",
                "call Registry::install once, before any other function of mim",
            )
        })
    }

    /// The methods.
    pub fn methods(&self) -> &[Entry] {
        &self.methods
    }

    /// Adds a method.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if its name or the name of one of its recipes is taken.
    pub fn method(&mut self, entry: Entry) -> Result<()> {
        let taken = |field: &str, name: &str| {
            let (why, fix) = ("the name is taken", "use another name");
            Err(Error::config("registry", field.to_owned(), name, why, fix))
        };
        if self.methods.iter().any(|known| known.name == entry.name) {
            return taken("method", entry.name);
        }
        let known = || self.methods.iter().flat_map(|known| known.recipes);
        for (name, _) in entry.recipes {
            if known().any(|(other, _)| other == name) {
                return taken("recipe", name);
            }
        }
        self.methods.push(entry);
        Ok(())
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

    /// All parts by kind, for documentation.
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
