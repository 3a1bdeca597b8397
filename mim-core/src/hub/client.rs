//! Files of the Hub, from the cache or by download.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cache::Cache;
use super::download::{ATTEMPTS, Download};
use super::http::{Failure, Http, Metadata};
use super::path::{is_commit, is_plain};
use super::refusal::{Patience, brief, explain};
use super::{HubPath, HubSettings, Observer, RepoKind, check, progress};
use crate::{Error, Result};

/// Where weights are if no file is named: the first that exists.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// A way to the Hub.
pub struct Hub {
    settings: HubSettings,
    http: Http,
    observer: Option<Observer>,
}

/// The files of a repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision stands for.
    pub commit: String,
    /// Paths inside the repository, sorted.
    pub files: Vec<String>,
    /// Whether they are only what the cache holds.
    pub is_cached: bool,
}

impl Hub {
    /// The Hub as the environment describes it, see [`HubSettings`].
    ///
    /// # Errors
    ///
    /// If the certificates that `SSL_CERT_FILE` names cannot be read.
    pub fn from_env() -> Result<Self> {
        let mut hub = Self::new(HubSettings::from_env())?;
        hub.observer = progress::observer();
        Ok(hub)
    }

    /// The Hub as `settings` describe it.
    ///
    /// # Errors
    ///
    /// If the certificates cannot be read.
    pub fn new(settings: HubSettings) -> Result<Self> {
        Ok(Self {
            http: Http::new(&settings)?,
            settings,
            observer: None,
        })
    }

    /// The same, telling `observer` of downloads.
    pub fn observed(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The file that `path` names, on this machine.
    ///
    /// # Errors
    ///
    /// [`Error::Hub`] if it cannot be had, [`Error::Io`] if the cache cannot be written.
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

    /// The weights that `path` names, on this machine: a file of the repository, `model.safetensors` or
    /// `pytorch_model.bin` if none is named. With an index (`*.index.json`) come all files that it lists.
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
        // All files are those of the commit that the index was taken from.
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

    /// The files of a repository: from the Hub, or those in the cache where it cannot be asked.
    ///
    /// # Errors
    ///
    /// [`Error::Hub`] if neither answers.
    pub fn list(&self, path: &HubPath) -> Result<Listing> {
        let cached = || {
            let cache = Cache::of(path, &self.settings);
            let commit = cache.commit(path.revision())?;
            let files = cache.files(&commit);
            (!files.is_empty()).then_some(Listing {
                commit,
                files,
                is_cached: true,
            })
        };
        if self.settings.offline {
            return cached().ok_or_else(|| self.offline(path));
        }
        match self.patiently(path, cached().is_some(), || self.siblings(path)) {
            Ok(listing) => Ok(listing),
            Err(failure) => match cached() {
                Some(listing) if failure.may_pass() => {
                    tracing::warn!("{path}: {}; using what is cached", brief(&failure));
                    Ok(listing)
                }
                _ => Err(explain(path, &failure, &self.settings)),
            },
        }
    }

    /// Notes in the cache that the revision of `path` stands for `commit`, whose files are there.
    #[cfg(feature = "parquet")]
    pub(crate) fn remember(&self, path: &HubPath, commit: &str) -> Result<()> {
        Cache::of(path, &self.settings).remember(path.revision(), commit)
    }

    /// The first of `names` that the repository has.
    fn first(&self, path: &HubPath, names: &[&str]) -> Result<PathBuf> {
        // Names also come from lists and indices that somebody uploaded.
        if let Some(name) = names.iter().find(|name| !name.split('/').all(is_plain)) {
            let what = format!("{name:?} is no path inside a repository");
            return Err(Error::hub(path, what, "name another file"));
        }
        let cache = Cache::of(path, &self.settings);
        let revision = path.revision();
        let cached = names
            .iter()
            .find_map(|name| Some((cache.find(revision, name)?, *name)));
        // A damaged file is as good as none, unless there is no other.
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
            let url = self.url(&path, revision);
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

    /// Repeats what fails in passing; only once is asked where the cache has an answer too.
    fn patiently<T>(
        &self,
        path: &HubPath,
        is_cached: bool,
        mut ask: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let attempts = if is_cached { 1 } else { ATTEMPTS };
        let mut patience = Patience::new(attempts, self.settings.first_wait);
        loop {
            match ask() {
                Err(failure) if patience.again(&failure, path) => {}
                done => return done,
            }
        }
    }

    /// The file with this metadata: from the cache, or downloaded into it.
    fn provide(&self, cache: &Cache, path: &HubPath, metadata: &Metadata) -> Result<PathBuf> {
        let Metadata { commit, etag, size } = metadata;
        let file = path.file().unwrap_or_default();
        let blob = cache.blob(etag);
        // Other programs have been seen to keep the text of a refusal under the name of the content.
        let is_whole = || {
            fs::metadata(&blob).is_ok_and(|found| found.len() == *size)
                && check::readable(&blob, file).is_ok()
        };
        if !is_whole() {
            let _lock = cache.lock(etag)?;
            // Whoever held the lock has perhaps just downloaded it.
            if !is_whole() {
                let part = blob.with_file_name(format!("{etag}.incomplete"));
                let download = Download {
                    http: &self.http,
                    settings: &self.settings,
                    observer: self.observer.as_ref(),
                    path,
                    url: self.url(path, commit),
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

    /// What the Hub says of a repository.
    fn siblings(&self, path: &HubPath) -> Result<Listing, Failure> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let kind = match path.kind() {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        let text = self.http.text(&format!(
            "{}/api/{kind}/{}/revision/{}",
            self.settings.endpoint,
            path.repository(),
            escaped(path.revision(), ""),
        ))?;
        let info: Info = serde_json::from_str(&text)
            .map_err(|error| Failure::Broken(format!("its list of files is no list: {error}")))?;
        let mut files: Vec<String> = info
            .siblings
            .into_iter()
            .map(|file| file.rfilename)
            .collect();
        files.sort_unstable();
        if !is_commit(&info.sha) {
            return Err(Failure::Broken(format!("{:?} is no commit", info.sha)));
        }
        Ok(Listing {
            commit: info.sha,
            files,
            is_cached: false,
        })
    }

    fn url(&self, path: &HubPath, revision: &str) -> String {
        let kind = match path.kind() {
            RepoKind::Model => "",
            RepoKind::Dataset => "datasets/",
        };
        format!(
            "{}/{kind}{}/resolve/{}/{}",
            self.settings.endpoint,
            path.repository(),
            escaped(revision, ""),
            escaped(path.file().unwrap_or_default(), "/"),
        )
    }

    /// None of `names` is there: what is.
    fn absent(&self, path: &HubPath, names: &[&str]) -> Error {
        let what = format!(
            "there is no {} at revision {}",
            names.join(", "),
            path.revision()
        );
        let listing = match self.siblings(path) {
            Ok(listing) => listing,
            Err(failure @ Failure::Refused(_)) => return explain(path, &failure, &self.settings),
            Err(Failure::Broken(_)) => {
                return Error::hub(
                    path,
                    what,
                    "name a file of the repository: hf:owner/name/FILE",
                );
            }
        };
        let shown = 20;
        let mut files = listing.files;
        // What may be weights comes first.
        let kinds = [".safetensors", ".bin", ".pth", ".pt", ".npz", ".parquet"];
        files.sort_by_key(|file| !kinds.iter().any(|kind| file.ends_with(kind)));
        let more = match files.len().saturating_sub(shown) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        files.truncate(shown);
        Error::hub(
            path,
            what,
            format!(
                "its files are {}{more}: name one as hf:owner/name/FILE",
                files.join(", ")
            ),
        )
    }

    fn offline(&self, path: &HubPath) -> Error {
        let cache = Cache::of(path, &self.settings);
        Error::hub(
            path,
            format!(
                "it is not in the cache ({}), and HF_HUB_OFFLINE forbids to download it",
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

/// The files that an index lists.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let text = fs::read_to_string(index).map_err(Error::io("read", index))?;
    let parsed: Index = serde_json::from_str(&text).map_err(|error| {
        Error::format(
            index,
            format!("this is no index of weights: {error}"),
            "name the weights file itself",
        )
    })?;
    Ok(parsed.weight_map.into_values().collect())
}

/// `text` for an address: everything but letters, digits, `-_.~` and what `keep` holds becomes `%XX`.
fn escaped(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if is_plain || keep.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("settings", &self.settings)
            .field("observed", &self.observer.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_hub() {
        let hub = Hub::new(HubSettings::new("http://hub/", "/cache")).unwrap();
        let path = HubPath::parse("hf:o/n@refs/pr/1/a b/c.bin", RepoKind::Dataset).unwrap();
        assert_eq!(
            hub.url(&path, path.revision()),
            "http://hub/datasets/o/n/resolve/refs%2Fpr%2F1/a%20b/c.bin"
        );
    }
}
