//! Reads regular files and lists folders.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Opens a file for reading. A pipe, a device or a socket is refused before it is opened: it may have no end, or block
/// its reader forever.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be opened, [`Error::Format`] if it is not a regular file.
pub fn open(path: &Path) -> Result<File> {
    regular(path)?;
    File::open(path).map_err(Error::io("open", path))
}

/// Refuses anything but a regular file, or a folder, which cannot be opened by mistake.
pub(super) fn regular(path: &Path) -> Result<()> {
    let kind = fs::metadata(path).map_err(Error::io("open", path))?;
    if kind.is_file() || kind.is_dir() {
        return Ok(());
    }
    let what = "this is not a regular file, but a pipe, a device or a socket";
    Err(Error::format(path, what, "save its content in a file"))
}

/// Reads a regular file.
///
/// # Errors
///
/// As [`open`], or [`Error::Io`] if it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// Reads a regular file, if anything is there.
///
/// # Errors
///
/// As [`read`].
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        _ => read(path).map(Some),
    }
}

/// The content of a folder, sorted by name; empty if the folder does not exist.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be read.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = match fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    let paths = read.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(Error::io("read", folder))?;
    paths.sort_unstable();
    Ok(paths)
}
