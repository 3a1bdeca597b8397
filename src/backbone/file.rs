//! Encoders from any weights file.

use std::path::Path;

use candle_core::Device;
use mim_core::encoders::{EncoderConfig, SwinConfig, VitConfig};
use mim_core::weights::{Grids, Guess, Source, WeightFile, WeightMap, fit};
use mim_core::{Error, Input, Norm, ParamStore, Result, settings};
use mim_eval::EvalConfig;
use toml::{Table, Value};

use super::{BATCH, Backbone, Recipe, Trunk, load_part};
use crate::DataConfig;

/// How to read an encoder from a weights file that belongs to no run and no zoo entry.
#[derive(Debug, Clone, Copy, Default)]
pub struct WeightsOf<'a> {
    /// The naming scheme of the file ([`Source`]). If not set: the first one that its names match.
    pub source: Option<&'a str>,
    /// The size of a ViT or Swin, such as `vit_small`. If not set: found in the file.
    pub arch: Option<&'a str>,
    /// Settings `key=value` under `encoder`, `norm`, `eval` and `data`, which override those of the file.
    pub set: &'a [String],
}

/// The settings of a ViT or a Swin that an `arch` sets.
const SIZES: [&str; 4] = ["embed_dim", "depth", "depths", "num_heads"];

/// Tables that may be set.
const TABLES: [&str; 4] = ["encoder", "norm", "eval", "data"];

impl Backbone {
    /// Opens an encoder from a weights file, a folder with one, or `hf:owner/name`. Also returns a line about what was
    /// found and loaded.
    ///
    /// Sizes come from the file ([`VitConfig::of_weights`], [`SwinConfig::of_weights`]). Settings under `encoder`
    /// override them; `encoder.type` overrides all of them. Images are normalised by ImageNet's mean and deviation
    /// unless `norm` is set, and prepared as in [`EvalConfig::view_plan`] unless `eval` is set. `data` says how they are read.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, its names or sizes are not recognised, or a tensor needed for inference is missing.
    pub fn of_file(path: &Path, of: &WeightsOf<'_>, device: &Device) -> Result<(Self, String)> {
        let (file, weights, source) = read(path, of)?;
        let mut tables = tables(of.set)?;
        let config = encoder(&weights, of.arch, tables.remove("encoder"))?;
        let (norm, from) = match tables.remove("norm") {
            Some(norm) => (settings::read::<Norm>("norm", norm)?, "as set"),
            None => (
                Norm::imagenet(),
                "as ImageNet's (--set norm={mean=[..], std=[..]})",
            ),
        };
        norm.check(config.in_channels())?;
        let mut eval = settings::to_table(&EvalConfig {
            batch_size: BATCH,
            ..EvalConfig::default()
        })?;
        settings::overlay(&mut eval, tables.remove("eval").unwrap_or_default());
        let eval: EvalConfig = settings::read("eval", eval)?;
        eval.check()?;
        let data = tables.remove("data").unwrap_or_default();
        let store = ParamStore::teacher(device);
        let encoder = config.build(&store.root())?;
        let grids = Grids {
            to: config.grid().ok(),
            ..Grids::default()
        };
        let fitted = fit(&weights, &store, grids)?;
        let report = load_part(&store, &fitted.weights)?;
        let line = format!(
            "{file}, names of {source}: {} of {} tensors set, images of {} pixels, normalised {from}; a file says nothing of {}",
            report.loaded.len(),
            weights.len(),
            config.image_size(),
            match config {
                EncoderConfig::Swin(_) => "image_size and norm_eps: --set encoder.image_size=N",
                _ => "num_heads and norm_eps: --set encoder.num_heads=N",
            }
        );
        let backbone = Self {
            input: Input {
                size: config.image_size(),
                norm,
            },
            trunk: Trunk::Encoder(encoder, store),
            recipe: Recipe::Encoder(Box::new(config)),
            data: settings::read::<DataConfig>("data", data)?,
            seed: 0,
            eval,
        };
        Ok((backbone, line))
    }
}

/// The settings of an encoder in a weights file, and the naming scheme of the file.
///
/// # Errors
///
/// Those of [`Backbone::of_file`].
pub fn encoder_of_file(path: &Path, of: &WeightsOf<'_>) -> Result<(EncoderConfig, String)> {
    let (_, weights, source) = read(path, of)?;
    let set = tables(of.set)?.remove("encoder");
    Ok((encoder(&weights, of.arch, set)?, source.to_owned()))
}

/// A file, its weights under mim's names, and its naming scheme.
fn read<'a>(path: &Path, of: &WeightsOf<'a>) -> Result<(WeightFile, WeightMap, &'a str)> {
    let file = WeightFile::open(path, None)?;
    let source = match of.source {
        Some(source) => source,
        None => guess(path, &file.weights)?,
    };
    let weights = Source::named(source)?.import(&file.weights)?;
    weights.check_finite("starting from these weights")?;
    Ok((file, weights, source))
}

/// The naming scheme that weights match.
fn guess(path: &Path, weights: &WeightMap) -> Result<&'static str> {
    let guesses = Guess::best(weights);
    let first = guesses.first().map(|guess| guess.source);
    first.ok_or_else(|| {
        let fix = format!("set their source to one of: {}", Source::names().join(", "));
        Error::format(path, "its tensor names match no known source", fix)
    })
}

/// Settings grouped by table.
fn tables(set: &[String]) -> Result<std::collections::BTreeMap<String, Table>> {
    let mut all = Table::new();
    for setting in set {
        settings::set(&mut all, setting)?;
    }
    let read = |(key, value): (String, Value)| match value {
        Value::Table(table) if TABLES.contains(&key.as_str()) => Ok((key, table)),
        _ => {
            let why = "only settings under encoder, norm, eval and data can be changed";
            let fix = "write --set encoder.norm_eps=1e-12, for example";
            Err(Error::config("command line", "--set", key, why, fix))
        }
    };
    all.into_iter().map(read).collect()
}

/// The encoder's settings: those of the file, overridden by the sizes of `arch`, overridden by `set`.
fn encoder(weights: &WeightMap, arch: Option<&str>, set: Option<Table>) -> Result<EncoderConfig> {
    let set = set.unwrap_or_default();
    let is_swin = SwinConfig::looks_like(weights);
    let mut table = Table::new();
    if !set.contains_key("type") {
        let found = match is_swin {
            true => SwinConfig::of_weights(weights).map(EncoderConfig::from),
            false => VitConfig::of_weights(weights).map(EncoderConfig::from),
        };
        if let Some(arch) = arch {
            let size: EncoderConfig = match is_swin {
                true => SwinConfig::arch(arch)?.into(),
                false => VitConfig::arch(arch)?.into(),
            };
            table = settings::to_table(found.as_ref().unwrap_or(&size))?;
            let sizes = settings::to_table(&size)?;
            let sizes = sizes.into_iter();
            table.extend(sizes.filter(|(key, _)| SIZES.contains(&key.as_str())));
        } else {
            table = settings::to_table(&found?)?;
        }
    }
    // A table with a type would replace the whole table, so keys are set one by one.
    for (key, value) in set {
        settings::overlay(&mut table, Table::from_iter([(key, value)]));
    }
    settings::read("encoder", table)
}
