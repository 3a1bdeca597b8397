//! The cache, laid out as Python's `huggingface_hub` does.
//!
//! ```text
//! .locks/models--owner--name/HASH.lock        held while HASH is downloaded
//! models--owner--name/blobs/HASH              the bytes of a file
//! models--owner--name/blobs/HASH.incomplete   the bytes downloaded so far
//! models--owner--name/refs/main               the commit of a branch or tag
//! models--owner--name/snapshots/COMMIT/FILE   a link to the blob
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::path::is_commit;
use super::{HubPath, HubSettings};
use crate::{Error, Result};

/// A repository's part of the cache.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub(super) fn of(path: &HubPath, settings: &HubSettings) -> Self {
        let folder = path.folder();
        Self {
            root: settings.cache.join(&folder),
            locks: settings.cache.join(".locks").join(folder),
        }
    }

    /// The repository's folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The commit of a revision when it was last requested.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// A file of a revision, if it is in the cache.
    pub(super) fn find(&self, revision: &str, file: &str) -> Option<PathBuf> {
        let path = self.snapshot(&self.commit(revision)?).join(file);
        path.is_file().then_some(path)
    }

    /// All files of a commit that are in the cache.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        let mut files = vec![];
        walk(&self.snapshot(commit), "", &mut files);
        files.sort_unstable();
        files
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Waits until no other process downloads this content, and keeps others from doing so until dropped.
    pub(super) fn lock(&self, etag: &str) -> Result<File> {
        create_dir(&self.locks)?;
        create_dir(&self.root.join("blobs"))?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                tracing::warn!("waiting for another process that downloads the same file");
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        match locked {
            // Some network file systems have no locks. Two downloads may then collide, which the check after them detects.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            done => done.map_err(Error::io("lock", &path))?,
        }
        Ok(file)
    }

    /// Links a blob to its path in a commit.
    pub(super) fn link(&self, etag: &str, commit: &str, file: &str) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(file);
        let blob = self.blob(etag);
        let same =
            |path: &Path| Some(fs::canonicalize(path).ok()? == fs::canonicalize(&blob).ok()?);
        if same(&path) == Some(true) {
            return Ok(path);
        }
        if let Some(folder) = path.parent() {
            create_dir(folder)?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        let target = format!("{up}blobs/{etag}");
        atomically(&path, |new| symlink(Path::new(&target), &blob, new))?;
        Ok(path)
    }

    /// Records the commit of a revision.
    pub(super) fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        if let Some(folder) = path.parent() {
            create_dir(folder)?;
        }
        atomically(&path, |new| fs::write(new, commit))
    }
}

fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

/// Creates a file under a temporary name, then renames it to `path`, so that no process sees half of it.
fn atomically(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let thread = std::thread::current().id();
    let new = path.with_file_name(format!(".{name}.{}.{thread:?}", std::process::id()));
    // A killed process with the same id may have left one.
    let _ = fs::remove_file(&new);
    make(&new).map_err(Error::io("create", path))?;
    fs::rename(&new, path).map_err(Error::io("create", path))
}

#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Copies the file if the user may not create links.
#[cfg(not(unix))]
fn symlink(_target: &Path, blob: &Path, link: &Path) -> io::Result<()> {
    fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(|_| ()))
}

fn walk(folder: &Path, inside: &str, files: &mut Vec<String>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = format!("{inside}{}", entry.file_name().to_string_lossy());
        let path = entry.path();
        if path.is_dir() {
            walk(&path, &format!("{name}/"), files);
        } else if path.is_file() {
            files.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_linked_file_is_found_under_its_branch_and_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path: HubPath = "hf:o/n".parse().unwrap();
        let cache = Cache::of(&path, &HubSettings::new("http://hub", folder.path()));
        let lock = cache.lock("e").unwrap();
        fs::write(cache.blob("e"), "bytes").unwrap();
        let file = cache.link("e", COMMIT, "sub/x.bin").unwrap();
        cache.remember("refs/pr/1", COMMIT).unwrap();
        drop(lock);
        assert_eq!(fs::read_to_string(&file).unwrap(), "bytes");
        assert_eq!(cache.find("refs/pr/1", "sub/x.bin"), Some(file.clone()));
        assert_eq!(cache.find(COMMIT, "sub/x.bin"), Some(file));
        assert_eq!(cache.find("main", "sub/x.bin"), None);
        assert_eq!(cache.files(COMMIT), ["sub/x.bin"]);
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(cache.snapshot(COMMIT).join("sub/x.bin")).unwrap(),
            Path::new("../../../blobs/e")
        );
    }

    #[test]
    fn a_link_follows_new_content() {
        let folder = tempfile::tempdir().unwrap();
        let path: HubPath = "hf:o/n".parse().unwrap();
        let cache = Cache::of(&path, &HubSettings::new("http://hub", folder.path()));
        for etag in ["e", "f"] {
            let _lock = cache.lock(etag).unwrap();
            fs::write(cache.blob(etag), etag).unwrap();
            let file = cache.link(etag, COMMIT, "x").unwrap();
            assert_eq!(fs::read_to_string(file).unwrap(), etag);
        }
        assert_eq!(cache.files(COMMIT), ["x"]);
    }
}
