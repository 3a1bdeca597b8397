//! What was found in large folders and archives, kept for the next time.
//!
//! Files lie below `MIM_CACHE`, or else below `mim` in `XDG_CACHE_HOME` or `~/.cache`. They only save time: an entry that is
//! damaged, or that no longer fits what it describes, is made anew.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A change within this time of another may leave the same time of change behind.
const TICK: Duration = Duration::from_secs(2);

/// What a file or folder was like when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    nanos: u64,
    len: u64,
}

impl Stamp {
    /// The stamp of a path; none if it changed a moment ago, or cannot be looked at.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let changed = metadata.modified().ok()?;
        let age = SystemTime::now().duration_since(changed).ok()?;
        let nanos = changed.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        (age > TICK).then_some(Self {
            nanos: u64::try_from(nanos).ok()?,
            len: metadata.len(),
        })
    }
}

/// The file of an index.
#[derive(Debug)]
pub(super) struct IndexFile(Option<PathBuf>);

impl IndexFile {
    /// The index of `what` kind about `path`.
    pub(super) fn of(what: &str, path: &Path) -> Self {
        let file = || {
            let real = std::fs::canonicalize(path).ok()?;
            let mut hasher = DefaultHasher::new();
            (env!("CARGO_PKG_VERSION"), what, real).hash(&mut hasher);
            let name = format!("{what}-{:016x}.json", hasher.finish());
            Some(folder()?.join("index").join(name))
        };
        Self(file())
    }

    /// An index in this file.
    #[cfg(test)]
    pub(super) fn at(file: PathBuf) -> Self {
        Self(Some(file))
    }

    /// What was stored, if it is there and whole.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Option<T> {
        let bytes = std::fs::read(self.0.as_ref()?).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Stores `value`, whole or not at all.
    pub(super) fn write<T: Serialize>(&self, value: &T) {
        let write = |file: &Path| {
            let folder = file.parent().unwrap_or(file);
            std::fs::create_dir_all(folder)?;
            let part = file.with_extension(format!("{}.tmp", std::process::id()));
            std::fs::write(&part, serde_json::to_vec(value)?)?;
            std::fs::rename(&part, file)
        };
        let written = self.0.as_deref().map_or(Ok(()), write);
        if let Err(error) = written {
            tracing::debug!("the index of a data set is not kept: {error}");
        }
    }
}

fn folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("MIM_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("XDG_CACHE_HOME")?).join("mim")))
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/mim")))
}
