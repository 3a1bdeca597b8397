//! Trained encoders, from runs or published weights.

mod file;

use std::path::Path;

use candle_core::Device;
use mim_core::encoders::EncoderConfig;
use mim_core::params::MaeInit;
use mim_core::weights::{Grids, LoadReport, Source, WeightFile, WeightMap, fit};
use mim_core::{Encoder, Error, Input, Method, ParamStore, Result, settings};
use mim_eval::EvalConfig;

pub use file::{WeightsOf, encoder_of_file};

use crate::{DataConfig, Pretrained, RunConfig, zoo};

/// Batch size for published encoders: they are large.
const BATCH: usize = 32;

/// A trained encoder and the settings of its input.
pub struct Backbone {
    trunk: Trunk,
    recipe: Recipe,
    /// Its input images.
    pub input: Input,
    /// The images it was trained on, or the embedded ones.
    pub data: DataConfig,
    /// Seed of its run, which selected the held-out images.
    pub seed: u64,
    /// Its evaluation settings.
    pub eval: EvalConfig,
}

enum Trunk {
    Method(Box<dyn Method>),
    Encoder(Box<dyn Encoder>, ParamStore),
}

/// How to build the encoder again.
enum Recipe {
    Run(Box<RunConfig>),
    Encoder(Box<EncoderConfig>),
}

impl Backbone {
    /// Opens a run folder, one of its checkpoints, or `zoo:NAME[=PATH]` (see [`zoo`]).
    ///
    /// # Errors
    ///
    /// Those of [`Pretrained::open`]; [`Error::Weights`] listing what published weights lack.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        if let Some((entry, path)) = zoo::find(path)? {
            return Self::published(entry, &path, device);
        }
        let Pretrained { config, method, .. } = Pretrained::open(path, device)?;
        Ok(Self {
            input: method.input().clone(),
            data: config.data.clone(),
            seed: config.train.seed,
            eval: config.eval.clone(),
            trunk: Trunk::Method(method),
            recipe: Recipe::Run(Box::new(config)),
        })
    }

    fn published(entry: &zoo::Published, path: &Path, device: &Device) -> Result<Self> {
        let config = entry.encoder()?;
        let store = ParamStore::teacher(device);
        let encoder = config.build(&store.root())?;
        let file = WeightFile::open(path, None)?;
        let weights = Source::named(entry.source)?.import(&file.weights)?;
        let grids = Grids {
            to: config.grid().ok(),
            ..Grids::default()
        };
        load_part(&store, &fit(&weights, &store, grids)?.weights)?;
        Ok(Self {
            trunk: Trunk::Encoder(encoder, store),
            recipe: Recipe::Encoder(Box::new(config)),
            input: Input {
                size: entry.image_size().into(),
                norm: entry.images.norm(),
            },
            data: DataConfig::default(),
            seed: 0,
            eval: EvalConfig {
                batch_size: BATCH,
                ..EvalConfig::default()
            },
        })
    }

    /// The same encoder with random weights: the initial weights of its run, or MAE's initialisation for weights
    /// without a run.
    ///
    /// # Errors
    ///
    /// If a setting is invalid, or parts of the method cannot be opened any more.
    pub fn random(&self, device: &Device) -> Result<Self> {
        let (trunk, recipe) = match &self.recipe {
            Recipe::Run(config) => (
                Trunk::Method(config.build(device)?),
                Recipe::Run(config.clone()),
            ),
            Recipe::Encoder(config) => {
                let patch_values = config.patch_size().pow(2) * config.in_channels();
                let store = ParamStore::new(device, self.seed, MaeInit { patch_values });
                (
                    Trunk::Encoder(config.build(&store.root())?, store),
                    Recipe::Encoder(config.clone()),
                )
            }
        };
        Ok(Self {
            trunk,
            recipe,
            input: self.input.clone(),
            data: self.data.clone(),
            seed: self.seed,
            eval: self.eval.clone(),
        })
    }

    /// The encoder called `name`, or the default one, with its name.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] listing the available encoders.
    pub fn encoder(&self, name: Option<&str>) -> Result<(&str, &dyn Encoder)> {
        match (&self.trunk, name) {
            (Trunk::Method(method), name) => choose(method.as_ref(), name),
            (Trunk::Encoder(encoder, _), None) => Ok(("encoder", encoder.as_ref())),
            (Trunk::Encoder(..), Some(name)) => Err(Error::unsupported(
                format!("the encoder `{name}` of published weights"),
                "published weights have only one encoder",
                "remove --encoder",
            )),
        }
    }

    /// A CRC-32 of all weights, and of the settings of the network that they belong to.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn checksum(&self) -> Result<u32> {
        let settings = match &self.recipe {
            Recipe::Run(config) => format!("{}\n{}", config.method, config.model),
            Recipe::Encoder(config) => settings::to_table(config)?.to_string(),
        };
        let stores = match &self.trunk {
            Trunk::Method(method) => method.stores(),
            Trunk::Encoder(_, store) => vec![("encoder", store)],
        };
        let mut sums = settings.into_bytes();
        for (_, store) in stores {
            sums.extend(store.checksum()?.to_le_bytes());
        }
        Ok(crc32fast::hash(&sums))
    }
}

impl std::fmt::Debug for Backbone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backbone")
            .field("input", &self.input)
            .field("data", &self.data)
            .field("eval", &self.eval)
            .finish_non_exhaustive()
    }
}

/// A method's encoder with its name: the one called `name`, or the method's default.
///
/// # Errors
///
/// [`Error::Unsupported`] listing the available encoders.
pub fn choose<'a>(
    method: &'a dyn Method,
    name: Option<&str>,
) -> Result<(&'a str, &'a dyn Encoder)> {
    let encoders = method.encoders();
    let known: Vec<_> = encoders.iter().map(|(known, _)| *known).collect();
    let found = match name {
        Some(name) => encoders.into_iter().find(|(known, _)| *known == name),
        None => encoders.into_iter().next(),
    };
    found.ok_or_else(|| match name {
        None => Error::unsupported(
            format!("an encoder of {}", method.name()),
            "this method has no encoder",
            "use a run of another method",
        ),
        Some(name) => Error::config(
            "command line",
            "--encoder",
            name,
            format!("{} has no encoder of this name", method.name()),
            format!("use {}", known.join(" or ")),
        ),
    })
}

/// Whether a parameter is not needed for inference.
fn is_unread(name: &str) -> bool {
    name == "mask_token"
}

/// Loads the parameters in `store` that inference needs, strictly. Ignores all other tensors (decoders, heads,
/// teachers).
fn load_part(store: &ParamStore, weights: &WeightMap) -> Result<LoadReport> {
    let own = weights
        .iter()
        .filter(|(name, _)| store.var(name).is_some())
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    store.load_allowing(&own.collect(), is_unread)
}
