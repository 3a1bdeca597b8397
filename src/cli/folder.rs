//! Run folders.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{RunConfig, run_config};
use mim_core::train::Checkpoint;
use mim_core::{Error, Result};

/// The next free `runs/<method>-<n>`.
pub(crate) fn next(method: &str) -> PathBuf {
    let taken = |n: &usize| Path::new("runs").join(format!("{method}-{n}")).exists();
    let first = (1..).find(|n| !taken(n)).unwrap_or(1);
    Path::new("runs").join(format!("{method}-{first}"))
}

/// The newest run of `method` below `runs` that has not trained all its epochs.
pub(crate) fn unfinished(method: &str) -> Result<Option<PathBuf>> {
    let entries = match fs::read_dir("runs") {
        Ok(entries) => entries,
        Err(_) => return Ok(None),
    };
    let mut found = None;
    for entry in entries {
        let run = entry.map_err(Error::io("read", "runs"))?.path();
        let Ok(written) = fs::metadata(run.join("config.toml")).and_then(|file| file.modified())
        else {
            continue;
        };
        let config = RunConfig::from_table(run_config::read_run(&run)?)?;
        let done = Checkpoint::latest(&run)?.map_or(0, |checkpoint| checkpoint.state().epoch);
        let newer = found.as_ref().is_none_or(|(newest, _)| written > *newest);
        if config.method == method && done < config.train.epochs && newer {
            found = Some((written, run));
        }
    }
    Ok(found.map(|(_, run)| run))
}

/// What may be in a run folder before the run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Nothing.
    Empty,
    /// Anything; it is removed.
    Removed,
    /// The run itself; it is kept.
    Kept,
}

/// Makes the folder ready to be written.
pub(crate) fn prepare(path: &Path, contents: Contents) -> Result<()> {
    let filled = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    match contents {
        Contents::Empty if filled => {
            return Err(Error::format(
                path,
                "the run folder is not empty",
                "use another --output-dir, --resume auto to go on with this run, or --overwrite to replace it",
            ));
        }
        Contents::Removed if filled => clear(path)?,
        _ => {}
    }
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

/// What a run leaves in its folder, besides event files.
const OURS: [&str; 14] = [
    "config.toml",
    "init.txt",
    "log.jsonl",
    "summary.json",
    "stages.json",
    "loss.svg",
    "reconstruction.png",
    "checkpoints",
    "best",
    "non_finite",
    "mlflow.json",
    "report.html",
    "finetune",
    "scratch",
];

/// Removes what a run wrote, and refuses to touch anything else.
fn clear(path: &Path) -> Result<()> {
    let mut doomed = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
        let entry = entry.map_err(Error::io("read", path))?.path();
        let name = entry
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if !OURS.contains(&name) && !name.starts_with("events.out.tfevents.") {
            let fix = "use another --output-dir, or move it away";
            return Err(Error::format(
                entry,
                "this was not written by a run, so it is not removed",
                fix,
            ));
        }
        doomed.push(entry);
    }
    for entry in doomed {
        let removed = if entry.is_dir() {
            fs::remove_dir_all(&entry)
        } else {
            fs::remove_file(&entry)
        };
        removed.map_err(Error::io("remove", &entry))?;
    }
    Ok(())
}

/// Removes the folder of a run that never took a step.
pub(crate) fn remove(path: &Path) -> Result<()> {
    clear(path)?;
    fs::remove_dir(path).map_err(Error::io("remove", path))
}

/// Refuses to write where there is no folder, before any work is done.
pub(crate) fn check_parent(path: &Path) -> Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if !parent.is_dir() => Err(Error::format(
            path,
            "its folder does not exist",
            "create the folder first",
        )),
        _ => Ok(()),
    }
}

/// Writes a text file whole: under a temporary name, then renamed.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    replace(path, |temporary| {
        fs::write(temporary, text).map_err(Error::io("write", path))
    })
}

/// Lets `write` make a file under a temporary name, and renames it; what stood there stays if that fails.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let written = write(&temporary)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("write", path)));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}
