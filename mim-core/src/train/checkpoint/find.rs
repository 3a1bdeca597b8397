//! Choosing a checkpoint of a run.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{BEST, Checkpoint, FOLDER};
use crate::train::FailedStep;
use crate::{Error, Result, files};

impl Checkpoint {
    /// The newest whole checkpoint of a run folder. A warning names damaged ones that are skipped.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if there are checkpoints, but none is whole; other errors if one cannot be read.
    pub fn latest(run: &Path) -> Result<Option<Self>> {
        Self::newest(run, |_| true)
    }

    /// Epochs completed in the newest readable checkpoint of a run, 0 without one. The weights are not checked.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be read.
    pub fn epochs_done(run: &Path) -> Result<usize> {
        let newest_first = steps(&run.join(FOLDER))?.into_iter().rev();
        let mut readable = newest_first.filter_map(|(_, path)| Self::read(&path).ok());
        Ok(readable.next().map_or(0, |found| found.state.epoch))
    }

    /// The checkpoint folders of a run with their steps, oldest first, whole or not.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be read.
    pub fn folders(run: &Path) -> Result<Vec<(usize, PathBuf)>> {
        steps(&run.join(FOLDER))
    }

    /// Cleans up what a crash left in a run folder that no process writes: a whole checkpoint under a temporary name gets
    /// its real name, and all other temporary files are removed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if something cannot be renamed or removed.
    pub fn tidy(run: &Path) -> Result<()> {
        let settled = |path: PathBuf| {
            let name = path.file_name()?.to_str()?;
            Some(path.with_file_name(files::settled_name(name)))
        };
        let all = files::entries(&run.join(FOLDER))?;
        let steps = all.into_iter().filter_map(settled);
        let mut paths: Vec<_> = steps.filter(|path| step_of(path).is_some()).collect();
        paths.dedup();
        for path in paths
            .into_iter()
            .chain([run.join(BEST), FailedStep::folder(run)])
        {
            let is_whole = |path: &Path| Self::read(path).is_ok_and(|found| found.verify().is_ok());
            if let Some(from) = files::recover(&path, is_whole)? {
                let (from, path) = (from.display(), path.display());
                tracing::warn!("{from} was left by a run that was cut off; it is used as {path}");
            }
        }
        Ok(())
    }

    /// The newest checkpoint of a run whose needed files are whole.
    pub(super) fn newest(run: &Path, needed: impl Fn(&str) -> bool) -> Result<Option<Self>> {
        let folder = run.join(FOLDER);
        let mut all = steps(&folder)?;
        loop {
            let found = Self::newest_of(&folder, &all, &needed);
            let now = steps(&folder)?;
            match found {
                // A running process has replaced the checkpoints that were listed.
                Err(error) if is_damage(&error) && now != all => all = now,
                found => return found,
            }
        }
    }

    /// The newest of these checkpoints, oldest first, whose needed files are whole.
    fn newest_of(
        folder: &Path,
        all: &[(usize, PathBuf)],
        needed: impl Fn(&str) -> bool,
    ) -> Result<Option<Self>> {
        let mut damaged = Vec::new();
        for (_, path) in all.iter().rev() {
            let whole = Self::read(path).and_then(|found| {
                found.check(&needed)?;
                Ok(found)
            });
            match whole {
                Ok(found) => {
                    for error in &damaged {
                        tracing::warn!(
                            "a damaged checkpoint is skipped, and {} is used instead: {error}",
                            found.path.display()
                        );
                    }
                    return Ok(Some(found.warned()));
                }
                Err(error) if is_damage(&error) => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        match damaged.into_iter().next() {
            None => Ok(None),
            Some(newest) => Err(Error::format(
                folder,
                format!("none of the checkpoints is whole; of the newest: {newest}"),
                "copy the run again, or start it again with --overwrite",
            )),
        }
    }
}

/// Whether an error means that a checkpoint is damaged, and not that it cannot be read at the moment.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::Format { .. } => true,
        Error::Io { source, .. } => {
            matches!(
                source.kind(),
                ErrorKind::NotFound | ErrorKind::UnexpectedEof
            )
        }
        _ => false,
    }
}

/// The step in the name of a checkpoint folder.
fn step_of(path: &Path) -> Option<usize> {
    path.file_name()?
        .to_str()?
        .strip_prefix("step-")?
        .parse()
        .ok()
}

/// The checkpoints of a folder, oldest first, whole or not.
pub(super) fn steps(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let all = files::entries(folder)?.into_iter();
    let mut found: Vec<_> = all
        .filter_map(|path| Some((step_of(&path)?, path)))
        .collect();
    found.sort_unstable();
    Ok(found)
}
