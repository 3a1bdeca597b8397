//! Files and folders that are there as a whole, or not at all.
//!
//! All that a run writes, replaces or removes goes through here. New content gets a temporary name, is synced to the
//! disk and is renamed; then the folder around it is synced. What goes is renamed first, too. After a crash a path
//! holds its old content or its new one, and [`recover`] settles what lies beside it.

mod lock;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

pub use lock::FolderLock;

/// Ends of names: of new content, of content that new content replaces, and of what is being removed.
const NEW: &str = ".tmp";
const REPLACED: &str = ".old";
const REMOVED: &str = ".removed";

/// Writes a file. What stood there stays if that fails.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be written.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    replace(path, |new| write_new(new, content))
}

/// Lets `make` make a file under a temporary name, and puts it in the place of `path`. What stood there stays if that
/// fails.
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
        // The first error is the one to tell.
        let _ = fs::remove_file(&new);
        return made;
    }
    sync_around(path)
}

/// Lets `make` fill a folder under a temporary name, and puts it in the place of `path`. What stood there stays if
/// that fails.
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
        // It would take the room that is missing; the first error is the one to tell.
        let _ = fs::remove_dir_all(&new);
        return made;
    }
    delete(&beside(path, REPLACED))
}

/// Lets `make` write files into a folder under a temporary name, and moves them into the folder `path` when all are
/// written. Other files that lie there stay.
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

/// Adds to the end of a file, which is made if it is not there, and syncs it.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be written; a part may have been.
pub fn append(path: &Path, content: &[u8]) -> Result<()> {
    let is_new = !path.exists();
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

/// Gives a file that is whole its final name, in the place of what stood there. If that fails, it keeps the name it has.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be synced or renamed.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    sync(from)?;
    fs::rename(from, to).map_err(Error::io("write", to))?;
    sync_around(to)
}

/// Makes a folder and those around it, if they are not there.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be made.
pub fn create_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(Error::io("create", path))?;
    sync_around(path)
}

/// Removes a file or a folder with all it holds: by another name, so that no half of it is left under its own.
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

/// Settles what a crash left beside `path`: content that was being replaced takes its place again if nothing else has
/// it, and so does new content that is `whole`. The rest is removed. Gives what took its place.
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

/// A name without the end that marks what a crash may leave, if it has one.
pub fn settled_name(name: &str) -> &str {
    let ends = [NEW, REPLACED, REMOVED];
    let settled = ends.iter().find_map(|end| name.strip_suffix(end));
    settled.unwrap_or(name)
}

/// Opens a file to read. A pipe, a device or a socket is refused before it is opened: it may have no end, or let its
/// reader wait for ever.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be opened, [`Error::Format`] if it is no regular file.
pub fn open(path: &Path) -> Result<File> {
    let kind = fs::metadata(path).map_err(Error::io("open", path))?;
    if !kind.is_file() && !kind.is_dir() {
        let what = "this is no regular file, but a pipe, a device or a socket";
        return Err(Error::format(path, what, "save its content in a file"));
    }
    File::open(path).map_err(Error::io("open", path))
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

/// What lies in a folder, in the order of names; nothing if it is not there.
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

/// Puts a new folder in the place of another one, which stays beside it under a name of its own.
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

/// Removes a file or folder under its own name, if it is there.
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

/// Syncs the folder around a path, so that its name lasts.
fn sync_around(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync(Path::new(".")),
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

fn sync(path: &Path) -> Result<()> {
    // Windows opens no folders.
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
        assert!(error.contains("no regular file"), "{error}");
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
