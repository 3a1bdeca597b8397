//! A lock on a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use crate::{Error, Result};

/// Keeps other processes from training into a folder. The lock ends with the process, however the process ends.
///
/// The lock is on the file `.lock` in the folder. Readers need none.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// The file in the folder.
    pub const FILE: &'static str = ".lock";

    /// Locks an existing folder. A file system without locks gets a warning.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if another process has the lock or the file is not a regular one, [`Error::Io`] if it cannot be
    /// created.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::FILE);
        if path.exists() {
            super::regular(&path)?;
        }
        let mut options = OpenOptions::new();
        let opened = options.create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(Error::io("create", &path))?;
        let taken = || {
            let fix = "wait until it ends, or use another --output-dir";
            Error::format(folder, "another process is training into this folder", fix)
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(taken()),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => tracing::warn!(
                "{} is on a file system without locks: a second process that trains into it would not be noticed",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            // The previous owner may have removed the file together with the folder.
            Ok(()) if !path.exists() => return Err(taken()),
            Ok(()) => {}
        }
        Ok(Self { _file: file })
    }
}

/// Linux returns ENOLCK for a network file system without a lock service.
fn has_no_locks(error: &std::io::Error) -> bool {
    const ENOLCK: i32 = 37;
    error.kind() == ErrorKind::Unsupported
        || cfg!(target_os = "linux") && error.raw_os_error() == Some(ENOLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_lock_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(dir.path()).unwrap();
        let error = FolderLock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another process is training"), "{error}");
        drop(lock);
        FolderLock::take(dir.path()).unwrap();
    }
}
