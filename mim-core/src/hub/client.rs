//! Files of the Hub, from the cache or by download.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::cache::Cache;
use super::download::{ATTEMPTS, Download};
use super::failure::Failure;
use super::headers::Metadata;
use super::http::Http;
use super::path::is_plain;
use super::refusal::{Patience, brief, explain};
use super::transport::Transport;
use super::{HubPath, HubSettings, Observer, address, check, progress};
use crate::{Error, Result};

/// Weights files if none is named; the first that exists is used.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// A connection to the Hub, with a cache.
pub struct Hub {
    pub(super) settings: HubSettings,
    pub(super) http: Http,
    transport: Transport,
    pub(super) observer: Option<Observer>,
}

impl Hub {
    /// The Hub with the settings of the environment, see [`HubSettings`].
    ///
    /// # Errors
    ///
    /// If the certificates that `SSL_CERT_FILE` names cannot be read, or `MIM_HUB_TRANSPORT` names no transport of this build.
    pub fn from_env() -> Result<Self> {
        let mut hub = Self::new(HubSettings::from_env())?;
        hub.observer = progress::observer();
        Ok(hub)
    }

    /// The Hub with these `settings`.
    ///
    /// # Errors
    ///
    /// If the certificates cannot be read, or the transport is none of this build.
    pub fn new(settings: HubSettings) -> Result<Self> {
        Ok(Self {
            transport: Transport::named(settings.transport.as_deref())?,
            http: Http::new(&settings)?,
            settings,
            observer: None,
        })
    }

    /// Reports downloads to `observer`.
    pub fn observed(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Checks once, for at most five seconds, whether the Hub answers. No token is sent.
    ///
    /// # Errors
    ///
    /// The reason why it does not.
    pub fn answers(&self) -> std::result::Result<(), String> {
        self.http
            .knock(&self.settings.endpoint, Duration::from_secs(5))
    }

    /// The local path of the file that `path` names, after a download if necessary.
    ///
    /// # Errors
    ///
    /// [`Error::Hub`] if it cannot be downloaded, [`Error::Io`] if the cache cannot be written.
    pub fn file(&self, path: &HubPath) -> Result<PathBuf> {
        match path.file() {
            Some(file) => self.first(path, &[file]),
            None => Err(Error::hub(
                path,
                "no file is named",
                "write hf:owner/name/FILE",
            )),
        }
    }

    /// The local path of the weights that `path` names: a file of the repository, or `model.safetensors` or
    /// `pytorch_model.bin` if none is named. For an index (`*.index.json`), all files that it lists are downloaded.
    ///
    /// # Errors
    ///
    /// As [`Self::file`].
    pub fn weights(&self, path: &HubPath) -> Result<PathBuf> {
        let found = match path.file() {
            Some(file) => self.first(path, &[file])?,
            None => self.first(path, &WEIGHTS)?,
        };
        if !found.to_string_lossy().ends_with(".index.json") {
            return Ok(found);
        }
        let cache = Cache::of(path, &self.settings);
        // All files come from the commit of the index.
        let commit = cache.commit(path.revision()).unwrap_or_default();
        let index = path.with_revision(commit);
        let folder = match path.file().and_then(|file| file.rsplit_once('/')) {
            Some((folder, _)) => format!("{folder}/"),
            None => String::new(),
        };
        for shard in shards(&found)? {
            self.first(&index, &[&format!("{folder}{shard}")])?;
        }
        Ok(found)
    }

    /// Records in the cache that the revision of `path` is `commit`, whose files are complete.
    #[cfg(feature = "parquet")]
    pub(crate) fn remember(&self, path: &HubPath, commit: &str) -> Result<()> {
        Cache::of(path, &self.settings).remember(path.revision(), commit)
    }

    /// The first of `names` that the repository has.
    fn first(&self, path: &HubPath, names: &[&str]) -> Result<PathBuf> {
        // Some names come from uploaded lists and indices.
        if let Some(name) = names.iter().find(|name| !name.split('/').all(is_plain)) {
            let what = format!("{name:?} is not a path inside a repository");
            return Err(Error::hub(path, what, "name another file"));
        }
        let cache = Cache::of(path, &self.settings);
        let revision = path.revision();
        let cached = names
            .iter()
            .find_map(|name| Some((cache.find(revision, name)?, *name)));
        // A damaged file counts as missing, unless there is no other.
        let cached = match cached {
            Some((found, name)) => match check::readable(&found, name) {
                Ok(()) => Some(found),
                Err(what) if self.settings.offline => return Err(damaged(&found, &what)),
                Err(_) => None,
            },
            None => None,
        };
        match cached {
            Some(found) if self.settings.offline || path.is_fixed() => return Ok(found),
            None if self.settings.offline => return Err(self.offline(path)),
            _ => {}
        }
        for name in names {
            let path = path.with_file(*name);
            let url = address::of(&self.settings, &path, revision);
            let answer = self.patiently(&path, cached.is_some(), || self.http.metadata(&url));
            match (answer, &cached) {
                (Ok(metadata), _) => return self.provide(&cache, &path, &metadata),
                (Err(failure), _) if failure.is_absence() => {}
                (Err(failure), Some(found)) if failure.may_pass() => {
                    tracing::warn!("{path}: {}; using the cached file", brief(&failure));
                    return Ok(found.clone());
                }
                (Err(failure), _) => return Err(explain(&path, &failure, &self.settings)),
            }
        }
        Err(self.absent(path, names))
    }

    /// Repeats requests after temporary failures; asks only once if the cache has an answer, too.
    pub(super) fn patiently<T>(
        &self,
        path: &HubPath,
        is_cached: bool,
        mut ask: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let attempts = if is_cached { 1 } else { ATTEMPTS };
        let mut patience = Patience::new(attempts, &self.settings);
        loop {
            match ask() {
                Err(failure) if patience.again(&failure, path) => {}
                done => return done,
            }
        }
    }

    /// The file with this metadata: from the cache, or downloaded into it.
    fn provide(&self, cache: &Cache, path: &HubPath, metadata: &Metadata) -> Result<PathBuf> {
        let Metadata {
            commit, etag, size, ..
        } = metadata;
        let file = path.file().unwrap_or_default();
        let blob = cache.blob(etag);
        // Other programs sometimes save the text of an error under the name of the content.
        let is_whole = || {
            fs::metadata(&blob).is_ok_and(|found| found.len() == *size)
                && check::readable(&blob, file).is_ok()
        };
        if !is_whole() {
            let _lock = cache.lock(etag)?;
            // The previous holder of the lock may just have downloaded it.
            if !is_whole() {
                let part = blob.with_file_name(format!("{etag}.incomplete"));
                let download = Download {
                    http: &self.http,
                    transport: self.transport,
                    settings: &self.settings,
                    observer: self.observer.as_ref(),
                    path,
                    url: address::of(&self.settings, path, commit),
                    metadata,
                };
                download.run(&part)?;
                fs::rename(&part, &blob).map_err(Error::io("create", &blob))?;
            }
        }
        let found = cache.link(etag, commit, file)?;
        cache.remember(path.revision(), commit)?;
        Ok(found)
    }

    pub(super) fn offline(&self, path: &HubPath) -> Error {
        let cache = Cache::of(path, &self.settings);
        Error::hub(
            path,
            format!(
                "it is not in the cache ({}), and HF_HUB_OFFLINE forbids downloads",
                cache.root().display()
            ),
            "unset HF_HUB_OFFLINE, or set HF_HUB_CACHE to a cache that has it",
        )
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::format(
        path,
        format!("the cached file is damaged: {what}"),
        "unset HF_HUB_OFFLINE to download it again",
    )
}

/// The files listed in an index.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let text = fs::read_to_string(index).map_err(Error::io("read", index))?;
    let parsed: Index = serde_json::from_str(&text).map_err(|error| {
        Error::format(
            index,
            format!("this is not an index of weights: {error}"),
            "name the weights file itself",
        )
    })?;
    Ok(parsed.weight_map.into_values().collect())
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("settings", &self.settings)
            .field("observed", &self.observer.is_some())
            .finish_non_exhaustive()
    }
}
