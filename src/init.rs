//! Starting a run from the weights of another run or a file.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use mim_core::encoders::EncoderConfig;
use mim_core::params::{Kind, ParamStore};
use mim_core::train::Checkpoint;
use mim_core::weights::{
    ChannelFit, Grids, Guess, LoadReport, Pattern, Source, WeightFile, WeightMap, fit_with,
};
use mim_core::{Error, Method, PatchGrid, Result};

use crate::RunConfig;

/// Weights to start from.
#[derive(Debug, Clone, Default)]
pub struct InitFrom {
    /// A run folder, a checkpoint of a run, or a file or folder of weights.
    pub path: PathBuf,
    /// Which weights of a run: `student` (default), `teacher`, ...
    pub store: Option<String>,
    /// The naming scheme of a file. Default: mim's own (`mae`).
    pub source: Option<String>,
    /// The key of the weights in a PyTorch checkpoint. If not set: found automatically.
    pub key: Option<String>,
    /// Parameters that may be missing or have another shape: they keep their initial values.
    pub allow_missing: Vec<Pattern>,
    /// Whether only the encoder is loaded, even if the weights contain more of the method.
    pub encoder_alone: bool,
    /// How the patch embedding is fitted to another number of channels.
    pub channels: ChannelFit,
}

/// What a run started from.
#[derive(Debug, Clone)]
pub struct Started {
    /// Path of the weights, and a description of the file.
    pub from: String,
    /// Whether only the encoder was set.
    pub encoder_only: bool,
    /// Which parameters were loaded and which kept their initial values.
    pub report: LoadReport,
    /// Tensors that were resized.
    pub changes: Vec<String>,
    /// Tensors of the file that do not belong to the encoder.
    pub left_out: Vec<String>,
}

/// Whether a path is a run folder, or a checkpoint of one.
pub fn is_run(path: &Path) -> bool {
    path.join("state.json").exists() || path.join("checkpoints").exists()
}

/// The weights of a file under mim's names, and a line that describes the file.
///
/// # Errors
///
/// If the file cannot be read, or the source is unknown.
pub fn read_weights(
    path: &Path,
    source: Option<&str>,
    key: Option<&str>,
) -> Result<(WeightMap, String)> {
    if is_run(path) {
        return read_store(path, "student");
    }
    let source = Source::named(source.unwrap_or("mae"))?;
    let file = WeightFile::open(path, key)?;
    let off = match source.wrapper(&file.weights) {
        wrapper if wrapper.is_empty() => wrapper,
        wrapper => format!(", `{wrapper}` taken off"),
    };
    Ok((
        source.import(&file.weights)?,
        format!("{file}, names of {}{off}", source.name()),
    ))
}

/// The token grid of the encoder that `weights` are of, if they are those of a run.
fn grid_of_run(path: &Path, weights: &WeightMap) -> Result<Option<PatchGrid>> {
    if !is_run(path) {
        return Ok(None);
    }
    let config = RunConfig::from_json(&Checkpoint::open(path)?.state().config)?;
    let shape = |name: &str| weights.get(name).map(|tensor| tensor.dims().to_vec());
    let encoder = encoder_with(&config, shape);
    Ok(encoder.and_then(|(encoder, _)| encoder.grid().ok()))
}

/// The weights called `store` of a run, and a line about where they were.
fn read_store(run: &Path, store: &str) -> Result<(WeightMap, String)> {
    let checkpoint = Checkpoint::open(run)?;
    let whose = match store {
        "student" => String::new(),
        other => format!("{other}, "),
    };
    let line = format!(
        "{} ({whose}step {})",
        run.display(),
        checkpoint.state().step
    );
    Ok((checkpoint.weights(store)?, line))
}

impl InitFrom {
    /// Loads the weights of `method`, built from `config`, before training: the whole student if the file contains it,
    /// otherwise only its encoder. Momentum teachers start as copies, as always.
    ///
    /// Tensors that differ in image size, window, patch size or channels are resized ([`fit_with`]).
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] listing all missing, unexpected or mis-shaped tensors; in that case nothing is loaded.
    pub fn apply(&self, config: &RunConfig, method: &dyn Method) -> Result<Started> {
        let stores = method.stores();
        let Some(&(_, student)) = stores.first() else {
            return Err(Error::unsupported(
                format!("starting {} from weights", method.name()),
                "it has no weights",
                "remove --init",
            ));
        };
        let (weights, from) = match &self.store {
            Some(store) => read_store(&self.path, store)?,
            None => read_weights(&self.path, self.source.as_deref(), self.key.as_deref())?,
        };
        weights.check_finite("starting from these weights")?;
        let encoder = encoder_of(config, student);
        let grids = Grids {
            from: grid_of_run(&self.path, &weights)?,
            to: encoder
                .as_ref()
                .and_then(|(encoder, _)| encoder.grid().ok()),
        };
        let fitted = fit_with(&weights, student, grids, self.channels)?;
        let weights = fitted.weights;
        let missing = |name: &str| weights.get(name).is_none();
        let whole = student
            .vars()
            .iter()
            .all(|(name, _)| !missing(name) || self.allows(name) || is_computed(student, name));
        let part = match encoder {
            Some((_, names)) if !whole || self.encoder_alone => Some(names),
            _ => None,
        };
        let wanted = |name: &str| part.as_ref().is_none_or(|part| part.contains(name));
        let (kept, left_out): (Vec<_>, Vec<_>) = weights
            .iter()
            .partition(|&(name, xs)| wanted(name) && !self.skips(student, name, xs));
        let kept = kept.into_iter();
        let kept: WeightMap = kept
            .map(|(name, xs)| (name.to_owned(), xs.clone()))
            .collect();
        // Only parameters may be missing; no tensor of the file may be unused.
        let optional = |name: &str| {
            student.var(name).is_some()
                && (!wanted(name) || self.allows(name) || is_computed(student, name))
        };
        let report = student
            .load_allowing(&kept, optional)
            .map_err(|error| self.explain(error, &left_out))?;
        for (_, teacher) in &stores[1..] {
            teacher.copy_from(student)?;
        }
        Ok(Started {
            from,
            encoder_only: part.is_some(),
            report,
            changes: fitted.changes,
            left_out: left_out
                .into_iter()
                .map(|(name, _)| name.to_owned())
                .collect(),
        })
    }

    fn allows(&self, name: &str) -> bool {
        self.allow_missing
            .iter()
            .any(|pattern| pattern.matches(name))
    }

    /// Whether a parameter keeps its initial value because the file's has another shape, and it may be missing.
    fn skips(&self, student: &ParamStore, name: &str, tensor: &Tensor) -> bool {
        let var = student.var(name);
        self.allows(name) && var.is_some_and(|var| var.dims() != tensor.dims())
    }

    /// Adds to an error whose names the file seems to have, and some of those that nothing was found for.
    fn explain(&self, error: Error, left_out: &[(&str, &Tensor)]) -> Error {
        let Error::Weights(report, fix) = error else {
            return error;
        };
        let fix = match left_out {
            [(first, _), ..] if report.loaded.is_empty() => {
                let count = left_out.len();
                format!(
                    "{count} names of the file are no part of the model, such as {first}; {fix}"
                )
                .into()
            }
            _ => fix,
        };
        let guess = |file: WeightFile| Guess::best(&file.weights).into_iter().next();
        let guess = WeightFile::open(&self.path, self.key.as_deref())
            .ok()
            .and_then(guess);
        match guess {
            Some(guess) if self.source.as_deref().unwrap_or("mae") != guess.source => {
                let hint = format!(
                    "its names match {0}: try --init-source {0}, or allow missing parameters (--allow-missing PATTERN)",
                    guess.source
                );
                Error::Weights(report, hint.into())
            }
            _ => Error::Weights(
                report,
                format!("{fix}; --allow-missing PATTERN lets parameters keep their initial values")
                    .into(),
            ),
        }
    }
}

impl Display for Started {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let part = if self.encoder_only {
            "the encoder"
        } else {
            "the whole model"
        };
        write!(
            f,
            "{part} starts from {}: {} tensors set",
            self.from,
            self.report.loaded.len()
        )?;
        if !self.report.missing.is_empty() {
            let first = self
                .report
                .missing
                .iter()
                .take(3)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            write!(
                f,
                ", {} keep their initial values ({first}, ...)",
                self.report.missing.len()
            )?;
        }
        if !self.left_out.is_empty() {
            write!(f, ", {} of the file are not used", self.left_out.len())?;
        }
        for change in &self.changes {
            write!(f, "\n  {change}")?;
        }
        Ok(())
    }
}

/// Whether a parameter is a table of fixed positions: a file may lack it, since it is computed from the settings.
fn is_computed(store: &ParamStore, name: &str) -> bool {
    let is_table = name
        .rsplit('.')
        .next()
        .is_some_and(|name| name.ends_with("pos_embed"));
    is_table
        && store
            .names()
            .iter()
            .any(|(known, kind)| known == name && *kind == Kind::Frozen)
}

/// The encoder in a run's settings, and the names of its parameters; `None` if the method keeps it elsewhere.
///
/// The type of an encoder without `type` is inferred from the student's parameters.
pub fn encoder_of(
    config: &RunConfig,
    student: &ParamStore,
) -> Option<(EncoderConfig, BTreeSet<String>)> {
    encoder_with(config, |name| {
        student.var(name).map(|var| var.dims().to_vec())
    })
}

/// The encoder of a run's settings, and the names of its parameters among those that have a `shape`.
fn encoder_with(
    config: &RunConfig,
    shape: impl Fn(&str) -> Option<Vec<usize>>,
) -> Option<(EncoderConfig, BTreeSet<String>)> {
    let table = config.model.get("encoder")?.as_table()?;
    let kinds = match table.contains_key("type") {
        true => vec![None],
        false => vec![
            Some("vit"),
            Some("swin"),
            Some("pvt_v2"),
            Some("conv_mae"),
            Some("rope_vit"),
        ],
    };
    kinds.into_iter().find_map(|kind| {
        let mut table = table.clone();
        if let Some(kind) = kind {
            table.insert("type".to_owned(), kind.into());
        }
        let encoder: EncoderConfig = table.try_into().ok()?;
        let own = ParamStore::teacher(&Device::Cpu);
        encoder.build(&own.root()).ok()?;
        let fits = |name: &str, dims: &[usize]| shape(name).is_some_and(|shape| shape == dims);
        let vars = own.vars();
        // Teachers have no mask token.
        let is_token = |name: &str| name == "mask_token";
        let all = vars
            .iter()
            .all(|(name, var)| fits(name, var.dims()) || is_token(name));
        let own = vars.into_iter().map(|(name, _)| name);
        all.then(|| (encoder, own.filter(|name| shape(name).is_some()).collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_config::read_file;
    use mim_methods::registry;

    /// The settings of a small recipe, with random teachers.
    fn recipe(name: &str) -> RunConfig {
        let mut table = read_file(name).unwrap();
        if let Some(target) = table.get_mut("target").and_then(toml::Value::as_table_mut)
            && target.contains_key("checkpoint")
        {
            target.insert("checkpoint".to_owned(), "random".into());
        }
        RunConfig::from_table(table).unwrap()
    }

    #[test]
    fn the_encoder_of_every_method_is_found() {
        for entry in registry::methods() {
            let config = recipe(entry.recipes[0].0);
            let Ok(method) = config.build(&Device::Cpu) else {
                continue;
            };
            // Tokenizer methods have no encoder.
            if method.encoder().is_none() {
                continue;
            }
            let found = encoder_of(&config, method.stores()[0].1);
            assert!(
                found.is_some_and(|(_, names)| names.len() > 10),
                "{}",
                entry.name
            );
        }
    }
}
