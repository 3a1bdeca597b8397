//! Lists of the files of a repository.

use serde::Deserialize;

use super::cache::Cache;
use super::failure::Failure;
use super::path::is_commit;
use super::refusal::{brief, explain};
use super::{Hub, HubPath, address};
use crate::{Error, Result};

/// The files of a repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit of the revision.
    pub commit: String,
    /// Paths inside the repository, sorted.
    pub files: Vec<String>,
    /// Whether the list comes only from the cache.
    pub is_cached: bool,
}

impl Hub {
    /// The files of a repository: from the Hub, or from the cache if the Hub cannot be reached.
    ///
    /// # Errors
    ///
    /// [`Error::Hub`] if neither has an answer.
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
                    tracing::warn!("{path}: {}; using cached files", brief(&failure));
                    Ok(listing)
                }
                _ => Err(explain(path, &failure, &self.settings)),
            },
        }
    }

    /// The answer of the Hub about a repository.
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
        let text = self.http.text(&address::of_list(&self.settings, path))?;
        let info: Info = serde_json::from_str(&text).map_err(|error| {
            Failure::Broken(format!("its list of files is not a list: {error}"))
        })?;
        let mut files: Vec<String> = info
            .siblings
            .into_iter()
            .map(|file| file.rfilename)
            .collect();
        files.sort_unstable();
        if !is_commit(&info.sha) {
            return Err(Failure::Broken(format!("{:?} is not a commit", info.sha)));
        }
        Ok(Listing {
            commit: info.sha,
            files,
            is_cached: false,
        })
    }

    /// The error if none of `names` exists; it lists the files that do.
    pub(super) fn absent(&self, path: &HubPath, names: &[&str]) -> Error {
        let what = format!(
            "there is no {} at revision {}",
            names.join(", "),
            path.revision()
        );
        let listing = match self.siblings(path) {
            Ok(listing) => listing,
            Err(failure @ Failure::Refused(_)) => return explain(path, &failure, &self.settings),
            Err(Failure::Broken(_) | Failure::Final(_)) => {
                return Error::hub(
                    path,
                    what,
                    "name a file of the repository: hf:owner/name/FILE",
                );
            }
        };
        let shown = 20;
        let mut files = listing.files;
        // Possible weights come first.
        let kinds = [".safetensors", ".bin", ".pth", ".pt", ".npz", ".parquet"];
        files.sort_by_key(|file| !kinds.iter().any(|kind| file.ends_with(kind)));
        let more = match files.len().saturating_sub(shown) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        files.truncate(shown);
        if files.is_empty() {
            return Error::hub(path, what, "it has no files: name another repository");
        }
        Error::hub(
            path,
            what,
            format!(
                "its files are {}{more}: name one as hf:owner/name/FILE",
                files.join(", ")
            ),
        )
    }
}
