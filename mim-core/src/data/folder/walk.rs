//! The folders and files below a folder.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::FileType;
use std::path::{Path, PathBuf};

use super::super::passed_over::PassedOver;
use super::index::Index;
use crate::{Error, Result};

/// Folders within one another that are walked at most.
const DEPTH: usize = 64;

/// A folder: how it was reached, and its place without links.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    real: PathBuf,
    depth: usize,
}

/// Visits folders, each once.
///
/// Links to files are followed. A link to a folder is followed unless its files are listed anyway or it leads in a
/// circle: what lies within the root, above it, or was reached before, is passed over and counted.
#[derive(Debug)]
pub(super) struct Walk {
    root: PathBuf,
    seen: HashSet<PathBuf>,
    index: Index,
    pub(super) passed_over: PassedOver,
}

/// What stands in a folder, by name, without names that start with a dot.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) folders: Vec<OsString>,
    pub(super) links: Vec<OsString>,
    pub(super) files: Vec<OsString>,
    /// Links that lead nowhere.
    dangling: Vec<OsString>,
    /// Pipes, sockets and devices.
    special: Vec<OsString>,
}

impl Listing {
    /// Lists `folder`; names are sorted.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let mut listing = Self::default();
        for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
            let entry = entry.map_err(Error::io("list", folder))?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(Error::io("read", entry.path()))?;
            listing.add(name, kind, &entry.path());
        }
        for names in [
            &mut listing.folders,
            &mut listing.links,
            &mut listing.files,
            &mut listing.dangling,
            &mut listing.special,
        ] {
            names.sort_unstable();
        }
        Ok(listing)
    }

    /// The listing of these folders, links to folders, files, links that lead nowhere, and what else there is.
    pub(super) fn of_names([folders, links, files, dangling, special]: [Vec<OsString>; 5]) -> Self {
        Self {
            folders,
            links,
            files,
            dangling,
            special,
        }
    }

    /// All names, as [`Self::of_names`] takes them; none if one is no UTF-8.
    pub(super) fn names(&self) -> Option<[Vec<String>; 5]> {
        let text = |names: &Vec<OsString>| -> Option<Vec<String>> {
            let names = names.iter().map(|name| name.to_str().map(str::to_owned));
            names.collect()
        };
        Some([
            text(&self.folders)?,
            text(&self.links)?,
            text(&self.files)?,
            text(&self.dangling)?,
            text(&self.special)?,
        ])
    }

    fn add(&mut self, name: OsString, kind: FileType, path: &Path) {
        if kind.is_dir() {
            self.folders.push(name);
        } else if kind.is_file() {
            self.files.push(name);
        } else if kind.is_symlink() {
            match std::fs::metadata(path).map(|target| target.file_type()) {
                Ok(target) if target.is_dir() => self.links.push(name),
                Ok(target) if target.is_file() => self.files.push(name),
                Ok(_) => self.special.push(name),
                Err(_) => self.dangling.push(name),
            }
        } else {
            self.special.push(name);
        }
    }

    /// Whether a run of `mim pretrain` lies in the folder.
    pub(super) fn is_run(&self) -> bool {
        let has = |names: &[OsString], name: &str| names.iter().any(|found| found == name);
        has(&self.files, "config.toml")
            && (has(&self.folders, "checkpoints") || has(&self.files, "log.jsonl"))
    }
}

impl Walk {
    /// Starts at `root`.
    pub(super) fn new(root: &Path) -> Result<(Self, Folder)> {
        let real = std::fs::canonicalize(root).map_err(Error::io("list", root))?;
        let walk = Self {
            root: real.clone(),
            seen: HashSet::new(),
            index: Index::of(root),
            passed_over: PassedOver::default(),
        };
        let folder = Folder {
            path: root.to_owned(),
            real,
            depth: 0,
        };
        Ok((walk, folder))
    }

    /// The subfolders and files of a folder, each sorted; none if it was visited before or holds a run.
    pub(super) fn enter(&mut self, folder: &Folder) -> Result<(Vec<Folder>, Vec<PathBuf>)> {
        if folder.depth > DEPTH {
            return Err(Error::format(
                &folder.path,
                format!("lies more than {DEPTH} folders deep"),
                "move the images up, or point to a folder nearer to them",
            ));
        }
        if !self.seen.insert(folder.real.clone()) {
            let what = "folders that a link had led to before";
            self.passed_over.other(what, &folder.path);
            return Ok((vec![], vec![]));
        }
        let listing = self.index.list(&folder.path, &folder.real)?;
        if folder.depth > 0 && listing.is_run() {
            self.passed_over
                .other("folders of runs of mim", &folder.path);
            return Ok((vec![], vec![]));
        }
        let path = |name: &OsString| folder.path.join(name);
        for name in &listing.dangling {
            self.passed_over
                .other("links that lead nowhere", &path(name));
        }
        for name in &listing.special {
            self.passed_over
                .other("pipes, sockets or devices", &path(name));
        }
        let mut folders: Vec<Folder> = listing
            .folders
            .iter()
            .map(|name| folder.below(name, folder.real.join(name)))
            .collect();
        for name in &listing.links {
            let real = std::fs::canonicalize(path(name)).map_err(Error::io("read", path(name)))?;
            if self.is_walked_anyway(&real) {
                let what = "links to folders that are listed anyway, or that hold the link";
                self.passed_over.other(what, &path(name));
            } else {
                folders.push(folder.below(name, real));
            }
        }
        folders.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok((folders, listing.files.iter().map(path).collect()))
    }

    /// Ends the walk: what was listed is kept for the next time.
    pub(super) fn end(&mut self) {
        self.index.keep();
    }

    /// Whether a folder is above the root, or within it where the walk comes by.
    fn is_walked_anyway(&self, real: &Path) -> bool {
        match real.strip_prefix(&self.root) {
            // What lies in a hidden folder is only reached by links.
            Ok(inside) => !inside
                .iter()
                .any(|name| name.as_encoded_bytes().starts_with(b".")),
            Err(_) => self.root.starts_with(real) || self.seen.contains(real),
        }
    }
}

impl Folder {
    fn below(&self, name: &OsString, real: PathBuf) -> Self {
        Self {
            path: self.path.join(name),
            real,
            depth: self.depth + 1,
        }
    }
}
