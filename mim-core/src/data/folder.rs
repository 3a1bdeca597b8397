//! Folders of files of images or point clouds.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::image_file::decode;
use super::{Dataset, Split, clouds};
use crate::augment::Sample;
use crate::{Error, Result};

/// What files of one kind are and how they are read.
#[derive(Debug, Clone, Copy)]
struct Files {
    /// Ends of their names.
    extensions: &'static [&'static str],
    /// What they hold, in the plural.
    what: &'static str,
    /// What to point to.
    fix: &'static str,
    read: fn(&Path) -> Result<Sample>,
}

const IMAGES: Files = Files {
    extensions: &["jpg", "jpeg", "png", "webp"],
    what: "images",
    fix: "point to a folder of .jpg, .jpeg, .png or .webp files",
    read: decode,
};
const CLOUDS: Files = Files {
    extensions: &["npy", "npz", "ply", "off", "xyz"],
    what: "point clouds",
    fix: "point to a folder of .npy, .npz, .ply, .off or .xyz files",
    read: clouds::read,
};

/// Images of a folder (`.jpg`, `.jpeg`, `.png`, `.webp`), always as RGB, or point clouds (`.npy`, `.npz`, `.ply`, `.off`,
/// `.xyz`), in the order of their names.
///
/// The folder may have a folder for each split, by any of its usual names ([`Split::names`]) in any case of letters;
/// else it is all train split. Inside a split, images in subfolders (at any depth) are labelled by the first; images
/// beside one another are unlabelled. Names that start with a dot are skipped, and so are folders that hold a run
/// of `mim pretrain`.
#[derive(Debug)]
pub struct FolderDataset {
    kind: Files,
    files: Vec<PathBuf>,
    labels: Vec<u32>,
    classes: Vec<String>,
}

impl FolderDataset {
    /// Lists a split of the images in `root`.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the split is missing, holds no image, or has a class that the train split lacks;
    /// [`Error::Io`] if a folder cannot be listed.
    pub fn open(root: &Path, split: Split) -> Result<Self> {
        Self::open_files(IMAGES, root, split)
    }

    /// Lists a split of the point clouds in `root`; see [`DataSource::Clouds`](super::DataSource::Clouds) for the files.
    ///
    /// # Errors
    ///
    /// As [`FolderDataset::open`].
    pub fn open_clouds(root: &Path, split: Split) -> Result<Self> {
        Self::open_files(CLOUDS, root, split)
    }

    fn open_files(kind: Files, root: &Path, split: Split) -> Result<Self> {
        let found = Split::ALL.map(|split| find(root, split));
        let [train, val, test] = found;
        let (train, val, test) = (train?, val?, test?);
        let there: Vec<&str> = [(&train, "train"), (&val, "val"), (&test, "test")]
            .into_iter()
            .filter_map(|(folder, name)| folder.as_ref().map(|_| name))
            .collect();
        let missing = || {
            let fix = match there.as_slice() {
                [] => format!(
                    "put its images into a folder `{split}`, and those to train on into `train`"
                ),
                there => format!(
                    "it has {}; put the images into a folder `{split}`",
                    there.join(" and ")
                ),
            };
            Error::no_split(root.display(), split, fix)
        };
        let other = match split {
            Split::Train if there.is_empty() => return Self::list(kind, root),
            Split::Train => return Self::list(kind, &train.ok_or_else(missing)?),
            Split::Val => val.ok_or_else(missing)?,
            Split::Test => test.ok_or_else(missing)?,
        };
        match train {
            Some(train) => {
                let known = Self::list(kind, &train)?.classes;
                Self::list(kind, &other)?.relabelled(known, &other)
            }
            None => Self::list(kind, &other),
        }
    }

    fn list(kind: Files, folder: &Path) -> Result<Self> {
        let (mut files, mut labels, mut classes) = (vec![], vec![], vec![]);
        let mut others = 0;
        let (folders, loose) = entries(folder)?;
        for subfolder in folders {
            let first = files.len();
            collect((kind, &subfolder), 0, &mut files, &mut others)?;
            if files.len() > first {
                let label = u32::try_from(classes.len()).unwrap_or(u32::MAX);
                labels.resize(files.len(), label);
                let name = subfolder.file_name().unwrap_or_default();
                classes.push(name.to_string_lossy().into_owned());
            }
        }
        let labelled = files.len();
        keep(kind, loose, &mut files, &mut others);
        if files.is_empty() {
            return Err(Error::format(
                folder,
                format!("holds no {}, only {others} files of other kinds", kind.what),
                kind.fix,
            ));
        }
        if files.len() > labelled && labelled > 0 {
            tracing::warn!(
                "{}: {what} lie beside subfolders of {what}; all are taken, without labels",
                folder.display(),
                what = kind.what
            );
        }
        if files.len() > labelled {
            (labels, classes) = (vec![], vec![]);
            files.sort_unstable();
        }
        Ok(Self {
            kind,
            files,
            labels,
            classes,
        })
    }

    /// The same images with the labels of `known` classes.
    fn relabelled(mut self, known: Vec<String>, folder: &Path) -> Result<Self> {
        if known.is_empty() || self.classes.is_empty() {
            (self.labels, self.classes) = (vec![], vec![]);
            return Ok(self);
        }
        let mut labels = vec![];
        for name in &self.classes {
            let label = known.iter().position(|class| class == name);
            labels.push(
                label
                    .and_then(|label| u32::try_from(label).ok())
                    .ok_or_else(|| {
                        Error::format(
                            folder.join(name),
                            "the train split has no class of this name",
                            "use the same subfolder names in both splits",
                        )
                    })?,
            );
        }
        for label in &mut self.labels {
            *label = labels[*label as usize];
        }
        self.classes = known;
        Ok(self)
    }
}

impl Dataset for FolderDataset {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn read(&self, index: usize) -> Result<Sample> {
        let path = self.files.get(index).ok_or_else(|| {
            Error::shape(
                "image index",
                format!("below {}", self.len()),
                index,
                "take indices from a sampler over this data set",
            )
        })?;
        (self.kind.read)(path)
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied()
    }

    fn classes(&self) -> usize {
        self.classes.len()
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn name_of(&self, index: usize) -> String {
        self.files
            .get(index)
            .map_or_else(|| format!("#{index}"), |path| path.display().to_string())
    }
}

/// The folder of a split, by any of its names.
fn find(root: &Path, split: Split) -> Result<Option<PathBuf>> {
    let (folders, _) = entries(root)?;
    let of_split = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| Split::of_name(name) == Some(split))
    };
    let mut found: Vec<PathBuf> = folders.into_iter().filter(of_split).collect();
    if let [first, second, ..] = found.as_slice() {
        let what = format!(
            "both it and {} are named like the {split} split",
            second.display()
        );
        return Err(Error::format(
            first,
            what,
            "keep one of them, or name the other one differently",
        ));
    }
    Ok(found.pop())
}

/// Whether a folder holds a run of `mim pretrain`.
fn is_run(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).exists();
    has("config.toml") && (has("checkpoints") || has("log.jsonl"))
}

/// Subfolders and files of a folder, each sorted, without run folders.
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut folders, mut files) = (vec![], vec![]);
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        // Links are followed: data sets are often assembled from them.
        if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
            if is_run(&path) {
                tracing::info!("{} holds a run and is passed over", path.display());
                continue;
            }
            folders.push(path);
        } else {
            files.push(path);
        }
    }
    folders.sort_unstable();
    files.sort_unstable();
    Ok((folders, files))
}

/// Adds the files of a kind in a folder and all below it.
fn collect(
    (kind, folder): (Files, &Path),
    depth: usize,
    images: &mut Vec<PathBuf>,
    others: &mut usize,
) -> Result<()> {
    if depth > 32 {
        return Err(Error::format(
            folder,
            "more than 32 folders deep",
            "remove links that lead back to a folder above",
        ));
    }
    let (folders, files) = entries(folder)?;
    keep(kind, files, images, others);
    folders
        .iter()
        .try_for_each(|folder| collect((kind, folder), depth + 1, images, others))
}

/// Whether a folder, or one up to three below it, holds a file that is a point cloud by name before any image.
pub(super) fn holds_clouds(folder: &Path, depth: usize) -> bool {
    let Ok((folders, files)) = entries(folder) else {
        return false;
    };
    let of = |kind: Files| files.iter().any(|path| kind.names(path));
    if of(CLOUDS) || of(IMAGES) {
        return !of(IMAGES);
    }
    depth < 3 && folders.iter().any(|folder| holds_clouds(folder, depth + 1))
}

impl Files {
    /// Whether a file is of this kind by its name.
    fn names(self, path: &Path) -> bool {
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        let mut known = self.extensions.iter();
        known.any(|name| extension.eq_ignore_ascii_case(name))
    }
}

/// Adds the files that are of a kind by name, and counts the others.
fn keep(kind: Files, files: Vec<PathBuf>, images: &mut Vec<PathBuf>, others: &mut usize) {
    for path in files {
        if kind.names(&path) {
            images.push(path);
        } else {
            *others += 1;
        }
    }
}
