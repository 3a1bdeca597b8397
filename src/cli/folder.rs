//! Run folders.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{RunConfig, run_config};
use mim_core::files::{self, FolderLock};
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
        if is_being_cleared(&run) {
            continue;
        }
        let config = RunConfig::from_table(run_config::read_run(&run)?)?;
        let done = Checkpoint::epochs_done(&run)?;
        let newer = found.as_ref().is_none_or(|(newest, _)| written > *newest);
        if config.method == method && done < config.train.epochs && newer {
            found = Some((written, run));
        }
    }
    Ok(found.map(|(_, run)| run))
}

/// What a run folder may hold before the run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Nothing.
    Empty,
    /// Anything; it is removed.
    Removed,
    /// The run itself; it is kept.
    Kept,
}

/// Prepares the folder for a run.
pub(crate) fn prepare(path: &Path, contents: Contents) -> Result<()> {
    let filled = || Ok::<_, Error>(files::entries(path)?.iter().any(|entry| !is_lock(entry)));
    match contents {
        Contents::Empty if filled()? => Err(Error::format(
            path,
            "the run folder is not empty",
            "use another --output-dir, --resume auto to continue this run, or --overwrite to replace it",
        )),
        Contents::Removed if filled()? => clear(path),
        _ => files::create_folder(path),
    }
}

/// What a run writes into its folder, except event files.
const OURS: [&str; 15] = [
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
    CLEARING,
];

/// Marks a folder while it is cleared, so that a half-cleared one is not mistaken for a run.
const CLEARING: &str = "clearing";

/// Whether a program ended while it cleared the folder; what remains is not a run.
pub(crate) fn is_being_cleared(path: &Path) -> bool {
    path.join(CLEARING).exists()
}

/// Cleans up what a crash left in a run folder.
pub(crate) fn tidy(path: &Path) -> Result<()> {
    for name in OURS {
        // Checkpoints are more than a name.
        if name != "checkpoints" {
            files::recover(&path.join(name), |_| false)?;
        }
    }
    Checkpoint::tidy(path)
}

fn is_lock(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name == FolderLock::FILE)
}

/// Whether a run wrote this file. This includes temporary files, also under the names of older versions.
fn is_ours(name: &str) -> bool {
    let settled = files::settled_name(name);
    let stem = |own: &&str| own.split('.').next() == Some(settled);
    OURS.contains(&settled)
        || name.starts_with("events.out.tfevents.")
        || settled != name && OURS.iter().any(stem)
}

/// Removes what a run wrote, except the lock, and refuses to touch anything else.
fn clear(path: &Path) -> Result<()> {
    let mut doomed = files::entries(path)?;
    doomed.retain(|entry| !is_lock(entry));
    for entry in &doomed {
        let name = entry.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(is_ours) {
            let fix = "use another --output-dir, or move the file";
            return Err(Error::format(
                entry,
                "a run did not write this file, so it is not removed",
                fix,
            ));
        }
    }
    let clearing = path.join(CLEARING);
    files::write(&clearing, "")?;
    doomed.retain(|entry| *entry != clearing);
    for entry in doomed {
        files::remove(&entry)?;
    }
    files::remove(&clearing)
}

/// Removes the folder of a run that made no step.
pub(crate) fn remove(path: &Path) -> Result<()> {
    clear(path)?;
    files::remove(path)
}

/// Refuses an output file in a missing folder, before any work is done.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_runs_are_known_and_others_are_not() {
        for name in [
            "config.toml",
            "config.toml.tmp",
            "config.tmp",
            "checkpoints.removed",
            "clearing",
            "events.out.tfevents.0000000000.mim",
        ] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["photo.png", "photo.tmp", "config", "checkpoints2"] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn a_folder_is_cleared_but_for_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir_all(run.join("checkpoints/step-4")).unwrap();
        for name in ["config.toml", "config.tmp", "log.jsonl", FolderLock::FILE] {
            fs::write(run.join(name), "").unwrap();
        }
        fs::write(run.join("mine.txt"), "").unwrap();
        let error = prepare(&run, Contents::Removed).unwrap_err().to_string();
        assert!(
            error.contains("mine.txt: a run did not write this file"),
            "{error}"
        );
        assert!(run.join("log.jsonl").exists());
        fs::remove_file(run.join("mine.txt")).unwrap();
        assert!(prepare(&run, Contents::Empty).is_err());
        prepare(&run, Contents::Removed).unwrap();
        let left = files::entries(&run).unwrap();
        assert_eq!(left, [run.join(FolderLock::FILE)]);
        prepare(&run, Contents::Empty).unwrap();
        remove(&run).unwrap();
        assert!(files::entries(dir.path()).unwrap().is_empty());
    }
}
