//! Contents of a run folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mim_core::train::{EpochLog, EpochRecord};
use mim_core::{Error, Result, files};
use mim_methods::registry;
use serde_json::Value;
use toml::Table;

use crate::RunConfig;
use crate::run_config::{read_file, read_run};

/// The data of a run for its report.
pub(crate) struct RunData {
    /// The name of its folder.
    pub(crate) name: String,
    pub(crate) method: String,
    /// Settings by dotted key.
    pub(crate) settings: BTreeMap<String, String>,
    /// The nearest recipe, and the settings that differ: name, the run's value, the recipe's value.
    pub(crate) recipe: Option<(String, Vec<Difference>)>,
    pub(crate) log: Vec<EpochRecord>,
    /// `summary.json`; null if the run has not finished.
    pub(crate) summary: Value,
    /// Pictures by file name.
    pub(crate) pictures: Vec<(String, Vec<u8>)>,
}

/// A setting, its value in the run, and its value in the recipe.
pub(crate) type Difference = (String, String, String);

/// Settings of the machine and data path, which do not describe the method.
const PLACES: [&str; 3] = ["data.source", "data.workers", "data.prefetch"];

impl RunData {
    pub(crate) fn read(run: &Path) -> Result<Self> {
        if !run.join("config.toml").exists() {
            let fix = "give folders that `mim pretrain` or `mim finetune` wrote";
            return Err(Error::format(
                run,
                "this is not a run: it has no config.toml",
                fix,
            ));
        }
        let config = RunConfig::from_table(read_run(run)?)?;
        let settings = flat(&config.to_table()?);
        let file = run.join("summary.json");
        let summary = match files::read_if_there(&file)? {
            Some(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::format(&file, error.to_string(), "remove the file"))?,
            None => Value::Null,
        };
        Ok(Self {
            name: name(run),
            recipe: nearest_recipe(&config.method, &settings),
            method: config.method,
            settings,
            log: EpochLog::new(run).read()?,
            summary,
            pictures: pictures(run)?,
        })
    }

    /// Numeric values of the summary.
    pub(crate) fn results(&self) -> BTreeMap<String, f64> {
        let all = self.summary.as_object().into_iter().flatten();
        let numbers = all.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
        let not = [
            "seed",
            "epochs",
            "k",
            "temperature",
            "c",
            "max_train",
            "images",
        ];
        numbers
            .filter(|(name, _)| !not.contains(&name.as_str()))
            .collect()
    }

    /// Each curve over the epochs; `None` in epochs without a value.
    pub(super) fn curves(&self) -> BTreeMap<String, Vec<Option<f64>>> {
        let names: BTreeSet<&String> = self
            .log
            .iter()
            .flat_map(|record| record.terms.keys())
            .collect();
        let mut curves = BTreeMap::new();
        let mut put = |name: &str, of: &dyn Fn(&EpochRecord) -> Option<f64>| {
            let values: Vec<_> = self.log.iter().map(of).collect();
            if values.iter().any(Option::is_some) {
                curves.insert(name.to_owned(), values);
            }
        };
        put("loss", &|record| Some(record.train_loss));
        put("lr", &|record| Some(record.lr));
        put("grad_norm", &|record| Some(record.grad_norm));
        put("images_per_s", &|record| Some(record.images_per_s));
        // A single term equals the loss.
        for name in names.iter().filter(|_| names.len() > 1) {
            put(&format!("terms.{name}"), &|record| {
                record.terms.get(*name).copied()
            });
        }
        let measured: BTreeSet<&String> = self
            .log
            .iter()
            .flat_map(|record| record.measured.keys())
            .collect();
        for name in measured {
            put(name, &|record| record.measured.get(name).copied());
        }
        curves
    }
}

fn name(run: &Path) -> String {
    let whole = fs::canonicalize(run).unwrap_or_else(|_| run.to_owned());
    let name = whole.file_name().unwrap_or(run.as_os_str());
    name.to_string_lossy().into_owned()
}

/// All settings by dotted key.
fn flat(table: &Table) -> BTreeMap<String, String> {
    fn add(table: &Table, path: &str, all: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let path = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            match value {
                toml::Value::Table(inner) if !inner.is_empty() => add(inner, &path, all),
                value => {
                    all.insert(path, value.to_string());
                }
            }
        }
    }
    let mut all = BTreeMap::new();
    add(table, "", &mut all);
    all
}

/// The shipped recipe with the fewest differences, and those differences.
fn nearest_recipe(
    method: &str,
    settings: &BTreeMap<String, String>,
) -> Option<(String, Vec<Difference>)> {
    let entry = registry::method(method).ok()?;
    let compared = entry.recipes.iter().filter_map(|(recipe, _)| {
        let config = RunConfig::from_table(read_file(recipe).ok()?).ok()?;
        let theirs = flat(&config.to_table().ok()?);
        let keys: BTreeSet<&String> = settings.keys().chain(theirs.keys()).collect();
        let of = |all: &BTreeMap<String, String>, key: &String| {
            all.get(key).cloned().unwrap_or_default()
        };
        let pairs = keys
            .into_iter()
            .map(|key| (key.clone(), of(settings, key), of(&theirs, key)));
        let differ: Vec<_> = pairs
            .filter(|(key, ours, theirs)| ours != theirs && !PLACES.contains(&key.as_str()))
            .collect();
        Some(((*recipe).to_owned(), differ))
    });
    compared.min_by_key(|(_, differ)| differ.len())
}

fn pictures(run: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(Error::io("read", run))? {
        let path = entry.map_err(Error::io("read", run))?.path();
        if path.extension().is_some_and(|end| end == "png") {
            let bytes = files::read(&path)?;
            found.push((name(&path), bytes));
        }
    }
    found.sort();
    Ok(found)
}
