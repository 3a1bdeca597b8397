//! What large folders hold, kept for the next time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::index_cache::{IndexFile, Stamp};
use super::walk::Listing;
use crate::Result;

/// Files above which listings are kept.
const LARGE: usize = 20_000;
/// How often is said how far listing has come.
const TOLD: Duration = Duration::from_secs(5);

/// Listings of a folder and of those below it. One is made anew when its folder has changed, as a folder does when
/// something in it is added, removed or renamed.
#[derive(Debug)]
pub(super) struct Index {
    file: IndexFile,
    /// Files above which it is kept.
    large: usize,
    old: HashMap<PathBuf, Kept>,
    new: Vec<Kept>,
    files: usize,
    listed: usize,
    told: Instant,
}

/// A listing as it is kept; names that are no UTF-8 cannot be.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    folder: PathBuf,
    stamp: Stamp,
    /// Folders, links to folders, files, links that lead nowhere, and what else there is.
    names: [Vec<String>; 5],
}

impl Index {
    /// The index of `root`.
    pub(super) fn of(root: &Path) -> Self {
        Self::with(IndexFile::of("folder", root), LARGE)
    }

    fn with(file: IndexFile, large: usize) -> Self {
        let old: Vec<Kept> = file.read().unwrap_or_default();
        Self {
            file,
            large,
            old: old
                .into_iter()
                .map(|kept| (kept.folder.clone(), kept))
                .collect(),
            new: vec![],
            files: 0,
            listed: 0,
            told: Instant::now(),
        }
    }

    /// What stands in a folder, of this place without links.
    pub(super) fn list(&mut self, folder: &Path, real: &Path) -> Result<Listing> {
        // Looked at before listing: what changes in the meantime is listed again the next time.
        let stamp = Stamp::of(real);
        let old = self.old.remove(real);
        if let (Some(stamp), Some(kept)) = (&stamp, old)
            && *stamp == kept.stamp
        {
            let listing = Listing::of_names(kept.names.clone().map(os_strings));
            self.files += listing.files.len();
            self.new.push(kept);
            return Ok(listing);
        }
        let listing = Listing::of(folder)?;
        self.files += listing.files.len();
        self.listed += 1;
        if self.told.elapsed() > TOLD {
            self.told = Instant::now();
            tracing::info!("listing {}: {} files so far", folder.display(), self.files);
        }
        if let (Some(stamp), Some(names)) = (stamp, listing.names()) {
            self.new.push(Kept {
                folder: real.to_owned(),
                stamp,
                names,
            });
        }
        Ok(listing)
    }

    /// Keeps what was listed, if it is much and not all kept already.
    pub(super) fn keep(&mut self) {
        if self.files > self.large && (self.listed > 0 || !self.old.is_empty()) {
            self.file.write(&self.new);
        }
        self.new = vec![];
    }
}

fn os_strings(names: Vec<String>) -> Vec<OsString> {
    names.into_iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, write};
    use std::time::SystemTime;

    #[test]
    fn listings_are_kept_until_their_folder_changes() {
        let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, file) = (root.path(), cache.path().join("deep/index.json"));
        write(root.join("a.png"), "").unwrap();
        write(root.join("b.png"), "").unwrap();
        let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
        File::open(root).unwrap().set_modified(an_hour_ago).unwrap();
        let list = |large| {
            let mut index = Index::with(IndexFile::at(file.clone()), large);
            let listing = index.list(root, root).unwrap();
            index.keep();
            listing.files
        };
        assert_eq!(list(2), ["a.png", "b.png"]);
        assert!(!file.exists());
        assert_eq!(list(1), ["a.png", "b.png"]);
        // A name that is changed in what is kept shows that it is used.
        let kept = std::fs::read_to_string(&file).unwrap();
        write(&file, kept.replace("b.png", "x.png")).unwrap();
        assert_eq!(list(1), ["a.png", "x.png"]);
        // A folder that changed a moment ago is listed, and not kept.
        write(root.join("c.png"), "").unwrap();
        assert_eq!(list(1), ["a.png", "b.png", "c.png"]);
        write(&file, "{").unwrap();
        assert_eq!(list(1), ["a.png", "b.png", "c.png"]);
    }
}
