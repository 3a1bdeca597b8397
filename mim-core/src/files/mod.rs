//! Files and folders that exist whole, or not at all.
//!
//! Everything that a run writes, replaces or removes goes through here. New content gets a temporary name, is synced to
//! the disk and is renamed; then the folder around it is synced. What is removed is renamed first, too. After a crash,
//! a path holds its old or its new content, and [`recover`] cleans up the temporary names next to it.

mod lock;
mod read;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

pub use lock::FolderLock;
use read::regular;
pub use read::{entries, open, read, read_if_there};

/// Suffixes of temporary names: of new content, of content that is being replaced, and of content that is being
/// removed.
const NEW: &str = ".tmp";
const REPLACED: &str = ".old";
const REMOVED: &str = ".removed";

/// Writes a file. If that fails, the old content stays.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be written.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    replace(path, |new| write_new(new, content))
}

/// Lets `make` write a file under a temporary name, and moves it to `path`. If that fails, the old content stays.
///
/// # Errors
///
/// What `make` returns, or [`Error::Io`].
pub fn replace(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let new = beside(path, NEW);
    let made = make(&new)
        .and_then(|()| sync(&new))
        .and_then(|()| fs::rename(&new, path).map_err(Error::io("write", path)));
    if made.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&new);
        return made;
    }
    sync_around(path)
}

/// Lets `make` fill a folder under a temporary name, and moves it to `path`. If that fails, the old content stays.
///
/// # Errors
///
/// What `make` returns, or [`Error::Io`].
pub fn replace_folder(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    recover(path, |_| false)?;
    let new = beside(path, NEW);
    create_folder(&new)?;
    let made = make(&new)
        .and_then(|()| sync(&new))
        .and_then(|()| put(&new, path));
    if made.is_err() {
        // It would take space that may be missing. The first error is the one to report.
        let _ = fs::remove_dir_all(&new);
        return made;
    }
    delete(&beside(path, REPLACED))
}

/// Lets `make` write files into a temporary folder, and moves them into the folder `path` when all are written. Other
/// files in that folder stay.
///
/// # Errors
///
/// What `make` returns, or [`Error::Io`].
pub fn fill_folder(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if !path.exists() {
        return replace_folder(path, make);
    }
    let new = beside(path, NEW);
    delete(&new)?;
    create_folder(&new)?;
    let made = make(&new).and_then(|()| {
        for file in entries(&new)? {
            let to = path.join(file.file_name().unwrap_or_default());
            fs::rename(&file, &to).map_err(Error::io("write", to))?;
        }
        sync(path)
    });
    let cleaned = delete(&new);
    made.and(cleaned)
}

/// Writes a file in place and syncs it: for folders that are still temporary.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be written.
pub fn write_new(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    file.write_all(content.as_ref())
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", path))
}

/// Replaces a file as a whole without syncing: a crash of the machine may lose it, one of the program cannot.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be written; then the old content stays.
pub fn write_unsynced(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let new = beside(path, NEW);
    fs::write(&new, content)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| {
            let _ = fs::remove_file(&new);
            Error::io("write", path)(error)
        })
}

/// Appends to a file, which is created if it does not exist, and syncs it.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be written; part of it may have been.
pub fn append(path: &Path, content: &[u8]) -> Result<()> {
    let is_new = !path.exists();
    if !is_new {
        regular(path)?;
    }
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).open(path);
    let mut file = file.map_err(Error::io("write", path))?;
    file.write_all(content)
        .and_then(|()| file.sync_data())
        .map_err(Error::io("write", path))?;
    match is_new {
        true => sync_around(path),
        false => Ok(()),
    }
}

/// Gives a complete file its final name, and replaces what had it. If that fails, the file keeps its name.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be synced or renamed.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    sync(from)?;
    fs::rename(from, to).map_err(Error::io("write", to))?;
    sync_around(to)
}

/// Creates a folder and its parents, if they do not exist.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be created.
pub fn create_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(Error::io("create", path))?;
    sync_around(path)
}

/// Removes a file, or a folder with its content. It is renamed first, so that no half of it is left under its own name.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    if !path.is_dir() || path.is_symlink() {
        return delete(path);
    }
    let removed = beside(path, REMOVED);
    delete(&removed)?;
    fs::rename(path, &removed).map_err(Error::io("remove", path))?;
    delete(&removed)
}

/// Cleans up what a crash left next to `path`. If `path` does not exist, new content that is `whole` is moved there, or
/// else the content that was being replaced. The rest is removed. Returns what was moved to `path`.
///
/// # Errors
///
/// [`Error::Io`] if something cannot be renamed or removed.
pub fn recover(path: &Path, whole: impl FnOnce(&Path) -> bool) -> Result<Option<PathBuf>> {
    let [new, replaced, removed] = [NEW, REPLACED, REMOVED].map(|end| beside(path, end));
    let mut taken = None;
    if !path.exists() {
        taken = match () {
            () if new.exists() && whole(&new) => Some(new.clone()),
            () if replaced.exists() => Some(replaced.clone()),
            () => None,
        };
        if let Some(from) = &taken {
            fs::rename(from, path).map_err(Error::io("write", path))?;
            sync_around(path)?;
        }
    }
    for left in [new, replaced, removed] {
        delete(&left)?;
    }
    Ok(taken)
}

/// A name without its temporary suffix, if it has one.
pub fn settled_name(name: &str) -> &str {
    let ends = [NEW, REPLACED, REMOVED];
    let settled = ends.iter().find_map(|end| name.strip_suffix(end));
    settled.unwrap_or(name)
}

/// Replaces a folder with a new one. The old folder stays next to it under a temporary name.
fn put(new: &Path, path: &Path) -> Result<()> {
    let replaced = beside(path, REPLACED);
    let occupied = path.exists();
    if occupied {
        fs::rename(path, &replaced).map_err(Error::io("replace", path))?;
    }
    let renamed = fs::rename(new, path).map_err(Error::io("write", path));
    if renamed.is_err() && occupied {
        let _ = fs::rename(&replaced, path);
    }
    renamed.and_then(|()| sync_around(path))
}

/// Removes a file or folder under its own name, if it exists.
fn delete(path: &Path) -> Result<()> {
    let deleted = match fs::symlink_metadata(path) {
        Ok(kind) if kind.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match deleted {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
    name.push(end);
    path.with_file_name(name)
}

/// Syncs the folder around a path, so that its name is on the disk.
fn sync_around(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync(Path::new(".")),
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

fn sync(path: &Path) -> Result<()> {
    // Windows cannot open folders.
    if cfg!(not(unix)) && path.is_dir() {
        return Ok(());
    }
    let file = File::open(path).map_err(Error::io("open", path))?;
    match file.sync_all() {
        // Some network file systems cannot sync folders.
        Err(error)
            if path.is_dir()
                && matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::Unsupported
                ) =>
        {
            Ok(())
        }
        done => done.map_err(Error::io("sync", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_file_that_cannot_be_made_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write(&path, "old").unwrap();
        let failed = replace(&path, |new| {
            fs::write(new, "half").unwrap();
            Err(Error::io("write", new)(ErrorKind::StorageFull.into()))
        });
        assert!(failed.is_err());
        assert_eq!(text(&path), "old");
        write(&path, "new").unwrap();
        assert_eq!(text(&path), "new");
        assert_eq!(entries(dir.path()).unwrap(), [path]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn devices_are_neither_read_nor_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        assert_eq!(read_if_there(&path).unwrap(), None);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        for tried in [
            read(&path).map(|_| ()),
            read_if_there(&path).map(|_| ()),
            append(&path, b"a"),
        ] {
            let error = tried.unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
        std::os::unix::fs::symlink("/dev/zero", dir.path().join(FolderLock::FILE)).unwrap();
        assert!(FolderLock::take(dir.path()).is_err());
    }

    #[test]
    fn a_whole_file_takes_its_final_name() {
        let dir = tempfile::tempdir().unwrap();
        let [part, path, away] = ["a.part", "a.txt", "no/a.txt"].map(|name| dir.path().join(name));
        write(&path, "old").unwrap();
        write(&part, "new").unwrap();
        assert!(rename(&part, &away).is_err() && part.exists());
        rename(&part, &path).unwrap();
        assert_eq!(text(&path), "new");
        assert_eq!(entries(dir.path()).unwrap(), [path]);
    }

    #[test]
    fn a_folder_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("step-4");
        let fill = |text: &'static str| {
            move |new: &Path| {
                write_new(&new.join("a"), text)?;
                match text {
                    "bad" => Err(Error::io("write", new)(ErrorKind::StorageFull.into())),
                    _ => Ok(()),
                }
            }
        };
        replace_folder(&path, fill("1")).unwrap();
        assert!(replace_folder(&path, fill("bad")).is_err());
        assert_eq!(text(&path.join("a")), "1");
        replace_folder(&path, fill("2")).unwrap();
        assert_eq!(text(&path.join("a")), "2");
        assert_eq!(entries(dir.path()).unwrap(), [path]);
    }

    #[test]
    fn a_filled_folder_keeps_other_files_and_gets_all_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("README"), "mine").unwrap();
        let fails = |new: &Path| {
            write_new(&new.join("a"), "1")?;
            Err(Error::io("write", new)(ErrorKind::StorageFull.into()))
        };
        assert!(fill_folder(&path, fails).is_err());
        assert_eq!(entries(&path).unwrap(), [path.join("README")]);
        fill_folder(&path, |new| write_new(&new.join("a"), "1")).unwrap();
        assert_eq!(text(&path.join("a")), "1");
        assert_eq!(text(&path.join("README")), "mine");
        assert_eq!(entries(dir.path()).unwrap(), [path]);
    }

    #[cfg(unix)]
    #[test]
    fn devices_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("endless.png");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let error = super::read(&link).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn what_a_crash_left_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let lay = |names: &[&str]| {
            for name in names {
                fs::create_dir(dir.path().join(name)).unwrap();
                fs::write(dir.path().join(name).join("is"), name).unwrap();
            }
        };
        // (what is there, whether new content is whole, what is there afterwards)
        for (names, whole, left) in [
            (&["a.old", "a.tmp"][..], false, Some("a.old")),
            (&["a.old", "a.tmp"], true, Some("a.tmp")),
            (&["a", "a.old", "a.tmp", "a.removed"], true, Some("a")),
            (&["a.removed", "a.tmp"], false, None),
        ] {
            lay(names);
            recover(&path, |_| whole).unwrap();
            let all = entries(dir.path()).unwrap();
            match left {
                Some(name) => {
                    assert_eq!(all, std::slice::from_ref(&path));
                    assert_eq!(text(&path.join("is")), name);
                    remove(&path).unwrap();
                }
                None => assert!(all.is_empty()),
            }
        }
        assert_eq!(settled_name("step-4.removed"), "step-4");
        assert_eq!(settled_name("config.toml"), "config.toml");
    }
}
