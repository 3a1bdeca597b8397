//! What may change when a run is resumed.

use std::path::Path;

use crate::RunConfig;
use crate::cli::folder::{Contents, is_being_cleared};
use crate::cli::options::Options;
use crate::run_config::Images;
use mim_core::train::Checkpoint;
use mim_core::{Error, Result};

impl Options {
    /// Whether `--resume auto` finds a finished run.
    pub(super) fn is_done(
        &self,
        config: &RunConfig,
        checkpoint: &Checkpoint,
        run: &Path,
    ) -> Result<bool> {
        if self.resume.as_deref() != Some("auto") || !is_finished(config, checkpoint, run) {
            return Ok(false);
        }
        same_settings(config, checkpoint)?;
        Ok(true)
    }

    /// The checkpoint to resume from, if any.
    pub(super) fn checkpoint(&self, run: &Path) -> Result<Option<Checkpoint>> {
        match self.resume.as_deref() {
            None => Ok(None),
            Some("auto") if is_being_cleared(run) => Ok(None),
            Some("auto") => Checkpoint::latest(run),
            // In a run folder, a checkpoint whose optimizer state is whole, too.
            Some(path) => match Checkpoint::latest(Path::new(path))? {
                None => Checkpoint::open(path).map(Some),
                found => Ok(found),
            },
        }
    }

    pub(super) fn contents(&self, resuming: bool) -> Contents {
        // A run that ended before its first checkpoint may leave settings and a log behind.
        let anew = self.overwrite || self.dry_run || self.resume.as_deref() == Some("auto");
        match (resuming, anew) {
            (true, _) => Contents::Kept,
            (false, true) => Contents::Removed,
            (false, false) => Contents::Empty,
        }
    }
}

/// Whether a run has trained all epochs and reported its results.
fn is_finished(config: &RunConfig, checkpoint: &Checkpoint, run: &Path) -> bool {
    checkpoint.state().epoch >= config.train.epochs && run.join("summary.json").exists()
}

/// A line if the number of training images has changed.
pub(super) fn other_images(images: &Images, checkpoint: &Checkpoint) -> Option<String> {
    let (now, then) = (images.train.len(), checkpoint.state().images?);
    (now != then).then(|| {
        format!("the run was trained on {then} images, and now there are {now}: length and order of epochs change, and the current epoch starts again")
    })
}

/// A checkpoint is resumed under the settings of its run. Settings that cannot change a result may differ, and so may
/// the place of the data and the number of epochs. Returns a line for each change that matters.
pub(super) fn same_settings(config: &RunConfig, checkpoint: &Checkpoint) -> Result<Vec<String>> {
    const FREE: [&str; 6] = [
        "data.source",
        "train.epochs",
        "data.workers",
        "data.prefetch",
        "train.keep_checkpoints",
        "train.checkpoint_every",
    ];
    let (mut now, mut then) = (Vec::new(), Vec::new());
    flatten(&config.to_json()?, String::new(), &mut now);
    // Settings that are newer than the run get the values it was trained with.
    let old = RunConfig::from_json(&checkpoint.state().config)?;
    flatten(&old.to_json()?, String::new(), &mut then);
    let free = |key: &str| FREE.contains(&key) || key.starts_with("eval.");
    let differs = |pair: &&(String, String), others: &[(String, String)]| {
        !free(&pair.0) && !others.contains(pair)
    };
    let mut changed: Vec<&str> = now
        .iter()
        .filter(|pair| differs(pair, &then))
        .map(|(key, _)| key.as_str())
        .collect();
    changed.extend(
        then.iter()
            .filter(|pair| differs(pair, &now))
            .map(|(key, _)| key.as_str()),
    );
    changed.sort_unstable();
    changed.dedup();
    if changed.is_empty() {
        return moved(config, &old, checkpoint);
    }
    Err(Error::format(
        checkpoint.path(),
        format!(
            "the run was started with other settings: {} differ",
            changed.join(", ")
        ),
        "resume it with its own settings (--config RUN/config.toml), or start a new run",
    ))
}

/// Lines about data in another place and about another number of epochs.
fn moved(config: &RunConfig, old: &RunConfig, checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let (now, then, done) = (
        config.train.epochs,
        old.train.epochs,
        checkpoint.state().epoch,
    );
    if now < done {
        let why = format!("the run has trained {done} epochs");
        let fix = format!("use {done} or more, or start a new run");
        return Err(Error::config("settings", "train.epochs", now, why, fix));
    }
    let mut lines = Vec::new();
    if now != then {
        lines.push(format!(
            "train.epochs was {then} and is now {now}: from here on, schedules follow a run of {now} epochs"
        ));
    }
    if config.data.source != old.data.source {
        lines.push(format!(
            "the images were at {} and are now read from {}",
            old.data.source, config.data.source
        ));
    }
    Ok(lines)
}

/// Every value with its dotted key.
pub(crate) fn flatten(value: &serde_json::Value, key: String, out: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(entries) => {
            for (name, value) in entries {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                flatten(value, key, out);
            }
        }
        value => out.push((key, value.to_string())),
    }
}
