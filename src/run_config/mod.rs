//! All settings of a run, as one TOML file.

mod before;
mod clouds;
mod data;
mod layers;
mod norm;
mod range;
mod shown;

use std::path::Path;

use candle_core::Device;
use mim_core::train::TrainConfig;
use mim_core::{Error, Method, Result, files, settings};
use mim_eval::EvalConfig;
use mim_methods::registry::{self, Entry};
use toml::{Table, Value};

/// All settings of a run. In a file, the method's own settings are at the top level, next to `method`, `arch` and the
/// tables `data`, `train` and `eval`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunConfig {
    /// Name of the method.
    pub method: String,
    /// Its complete settings.
    pub model: Table,
    /// Images.
    pub data: DataConfig,
    /// Training.
    pub train: TrainConfig,
    /// Evaluation after training.
    pub eval: EvalConfig,
}

impl RunConfig {
    /// Parses settings; missing ones have the defaults of the method and of the engine.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for an unknown key or value; it suggests the nearest valid one.
    pub fn from_table(table: Table) -> Result<Self> {
        let names = table.clone();
        Self::read(table).map_err(|error| layers::suggest(error, &names))
    }

    fn read(mut table: Table) -> Result<Self> {
        let method = layers::method(&table)?;
        let entry = registry::method(&method)?;
        norm::without_data(&mut table, entry)?;
        layers::fill_sizes(&mut table, entry)?;
        table.remove("method");
        let mut part = |key: &str| match table.remove(key) {
            None => Ok(Table::new()),
            Some(Value::Table(part)) => Ok(part),
            Some(other) => {
                let fix = format!("write [{key}] and its keys below");
                let (key, why) = (key.to_owned(), "this setting must be a table");
                Err(Error::config("settings", key, other, why, fix))
            }
        };
        let (mut data, train, mut eval) = (part("data")?, part("train")?, part("eval")?);
        let model = entry.resolve(table)?;
        if entry.clouds {
            clouds::complete(&model, &mut data, &mut eval)?;
        }
        let train: TrainConfig = settings::read("train", train)?;
        train.validate()?;
        let data: DataConfig = settings::read("data", data)?;
        data.check()?;
        data.check_shown(norm::channels_of(&model))?;
        let eval: EvalConfig = settings::read("eval", eval)?;
        eval.check()?;
        Ok(Self {
            method,
            model,
            data,
            train,
            eval,
        })
    }

    /// All settings as a table, as in a file.
    ///
    /// # Errors
    ///
    /// If a value cannot be written as TOML.
    pub fn to_table(&self) -> Result<Table> {
        let mut table = Table::new();
        table.insert("method".to_owned(), self.method.clone().into());
        table.extend(self.model.clone());
        for (key, value) in [
            ("data", Value::try_from(&self.data)),
            ("train", Value::try_from(&self.train)),
            ("eval", Value::try_from(&self.eval)),
        ] {
            let value = value.map_err(|error| unwritable(&error))?;
            table.insert(key.to_owned(), value);
        }
        Ok(table)
    }

    /// All settings as TOML text.
    ///
    /// # Errors
    ///
    /// If a value cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(&self.to_table()?).map_err(|error| unwritable(&error))
    }

    /// All settings as JSON, for checkpoints.
    ///
    /// # Errors
    ///
    /// If a value cannot be written as JSON.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self.to_table()?).map_err(|error| unwritable(&error))
    }

    /// Parses the output of [`RunConfig::to_json`].
    ///
    /// # Errors
    ///
    /// If the settings do not fit this version.
    pub fn from_json(json: &serde_json::Value) -> Result<Self> {
        let mut table = Table::try_from(json).map_err(|error| unwritable(&error))?;
        data::of_older_run(&mut table);
        Self::from_table(table)
    }

    /// Builds the method, with weights drawn from the run's seed.
    ///
    /// # Errors
    ///
    /// If a setting is invalid.
    pub fn build(&self, device: &Device) -> Result<Box<dyn Method>> {
        self.entry()?
            .build(self.model.clone(), device, self.train.seed)
    }

    /// The method's entry in the registry.
    ///
    /// # Errors
    ///
    /// If there is no entry with this name.
    pub fn entry(&self) -> Result<&'static Entry> {
        registry::method(&self.method)
    }
}

pub use before::warnings;
pub use data::{DataConfig, HeldOut, Images};
pub use layers::{method, replace_sizes};
pub use norm::of_images as norm_of;
pub use range::percentiles;

/// Replaces what the settings leave to be measured on training images, `data.range = "percentile"` and
/// `norm = "auto"`, by numbers, and returns lines that report them.
///
/// # Errors
///
/// If the images cannot be read, or have one and the same value everywhere.
pub fn measure(table: &mut Table) -> Result<Vec<String>> {
    let range = range::measure(table)?;
    let norm = norm::measure(table)?;
    Ok(range.into_iter().chain(norm).collect())
}

/// The settings in `config.toml` of a run folder.
///
/// # Errors
///
/// If it cannot be read, or is not TOML.
pub fn read_run(run: &Path) -> Result<Table> {
    let path = run.join("config.toml");
    let text = files::read(&path)?;
    let mut table = parse(&path, &String::from_utf8_lossy(&text))?;
    data::of_older_run(&mut table);
    Ok(table)
}

/// The settings in a TOML file, or in the shipped recipe with that name.
///
/// # Errors
///
/// If neither exists, or the text is not TOML.
pub fn read_file(name: &str) -> Result<Table> {
    let path = Path::new(name);
    let text = if path.exists() {
        std::fs::read_to_string(path).map_err(Error::io("read", path))?
    } else if name.contains(['/', '.']) {
        let recipes = registry::methods().iter().flat_map(|entry| entry.recipes);
        let recipes: Vec<_> = recipes.map(|(name, _)| *name).collect();
        let fix = format!("give a TOML file, or a recipe: {}", recipes.join(", "));
        return Err(Error::format(path, "file not found", fix));
    } else {
        registry::recipe(name)?.to_owned()
    };
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Table> {
    text.parse::<Table>()
        .map_err(|error| Error::format(path, error.to_string(), "correct the TOML"))
}

fn unwritable(error: &dyn std::fmt::Display) -> Error {
    Error::config(
        "settings",
        "value",
        error,
        "it cannot be serialised",
        "report this as a bug",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_complete_and_round_trips() {
        for entry in registry::methods() {
            for (name, text) in entry.recipes {
                let table: Table = text.parse().unwrap();
                assert_eq!(table["method"].as_str(), Some(entry.name), "{name}");
                let config =
                    RunConfig::from_table(table).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(
                    RunConfig::from_table(config.to_table().unwrap()).unwrap(),
                    config,
                    "{name}"
                );
                assert_eq!(
                    RunConfig::from_json(&config.to_json().unwrap()).unwrap(),
                    config,
                    "{name}"
                );
                assert_eq!(
                    config.to_toml().unwrap().parse::<Table>().unwrap(),
                    config.to_table().unwrap(),
                    "{name}"
                );
            }
        }
    }

    /// Dotted keys of all numbers.
    fn numbers(value: &Value, key: &str, found: &mut Vec<String>) {
        match value {
            Value::Table(table) => table
                .iter()
                .for_each(|(name, value)| numbers(value, &format!("{key}.{name}"), found)),
            Value::Integer(_) | Value::Float(_) => found.push(key.to_owned()),
            _ => {}
        }
    }

    #[test]
    fn numbers_without_meaning_are_refused_in_every_setting_of_a_run() {
        let whole = RunConfig::from_table(Table::new()).unwrap();
        let whole = Value::Table(whole.to_table().unwrap());
        let mut keys = Vec::new();
        for part in ["data", "train", "eval"] {
            numbers(&whole[part], part, &mut keys);
        }
        keys.retain(|key| !key.ends_with("seed"));
        let mut tries = 0;
        for key in keys {
            for bad in ["nan", "inf", "-inf", "1e18", "9223372036854775807", "-1e18"] {
                let mut table = whole.as_table().unwrap().clone();
                mim_core::settings::set(&mut table, &format!("{key}={bad}")).unwrap();
                let error = RunConfig::from_table(table).unwrap_err().to_string();
                let last = key.rsplit('.').next().unwrap();
                assert!(error.contains(last), "{key} = {bad}: {error}");
                tries += 1;
            }
        }
        assert!(tries > 100, "{tries}");
    }

    #[test]
    fn errors_for_misspelt_keys_suggest_the_nearest() {
        let error = |text: &str| {
            RunConfig::from_table(text.parse().unwrap())
                .unwrap_err()
                .to_string()
        };
        assert!(error("[trian]\nepochs = 1").contains("did you mean `train`?"));
        assert!(error("[train]\nepoch = 1").contains("did you mean `epochs`?"));
        assert!(error("mask_rato = 0.5").contains("did you mean `mask_ratio`?"));
        assert!(error("[encoder]\nembed_dims = 8").contains("did you mean `embed_dim`?"));
        assert!(error("mask_ratio = \"big\"").contains("mask_ratio"));
    }
}
