//! Folders of files of images or point clouds.

mod index;
mod kind;
mod walk;

use std::path::{Path, PathBuf};

pub(super) use self::kind::images;
use self::kind::{CLOUDS, Files, IMAGES, keep};
use self::walk::{Folder, Listing, Walk};
use super::passed_over::PassedOver;
use super::reading::{ArrayLayout, ReadImage};
use super::{Dataset, Reading, Split, out_of_range};
use crate::augment::Sample;
use crate::{Error, Result};

/// Images or point clouds of a folder, in the order of their names.
///
/// Images are JPEG, PNG, WebP, BMP, GIF, TIFF, PNM, and files without an ending that hold an image; they are RGB unless
/// [`Reading::range`] is set. Point clouds are `.npy`, `.npz`, `.ply`, `.off`, `.xyz`.
///
/// The folder may have a folder for each split, with any of its usual names ([`Split::names`]) in upper or lower case.
/// Otherwise all files are the train split. Inside a split, the topmost subfolder is the class of all images below it;
/// images without subfolders are unlabelled. Names that start with a dot are skipped. Folders of a run of `mim
/// pretrain`, files of other kinds and links that lead in a circle are skipped and counted ([`Dataset::notes`]). So are
/// images of val and test whose class is not in the train split.
#[derive(Debug)]
pub struct FolderDataset {
    kind: Files,
    files: Vec<PathBuf>,
    labels: Vec<u32>,
    classes: Vec<String>,
    notes: Vec<String>,
    how: ReadImage,
}

impl FolderDataset {
    /// Lists a split of the images in `root`.
    ///
    /// # Errors
    ///
    /// [`Error::NoSplit`] if the split is missing; [`Error::Format`] if it holds no image, or only classes that are not
    /// in the train split; [`Error::Io`] if a folder cannot be listed.
    pub fn open(root: &Path, split: Split) -> Result<Self> {
        Self::open_with(root, split, &Reading::default())
    }

    /// Lists a split of the images in `root`, which are read as `reading` says.
    ///
    /// # Errors
    ///
    /// As [`FolderDataset::open`].
    pub fn open_with(root: &Path, split: Split, reading: &Reading) -> Result<Self> {
        Ok(Self {
            how: reading.images(false),
            ..Self::open_files(images(reading.array_layout), root, split)?
        })
    }

    /// Lists a split of the point clouds in `root`; see [`DataSource::Clouds`](super::DataSource::Clouds) for the files.
    ///
    /// # Errors
    ///
    /// As [`FolderDataset::open`].
    pub fn open_clouds(root: &Path, split: Split) -> Result<Self> {
        Self::open_files(CLOUDS, root, split)
    }

    /// The images below a folder, whatever the folders' names; what is passed over is added to `notes`.
    pub(super) fn below(
        root: &Path,
        layout: Option<ArrayLayout>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<PathBuf>> {
        let (mut walk, folder) = Walk::new(root)?;
        let (kind, mut files) = (images(layout), vec![]);
        collect(kind, &mut walk, &folder, &mut files)?;
        walk.end();
        if files.is_empty() {
            return Err(nothing(kind, root, &walk.passed_over));
        }
        notes.extend(walk.passed_over.lines());
        Ok(files)
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

    fn list(kind: Files, root: &Path) -> Result<Self> {
        let (mut walk, folder) = Walk::new(root)?;
        let (mut files, mut labels, mut classes) = (vec![], vec![], vec![]);
        let (folders, loose) = walk.enter(&folder)?;
        let mut empty = vec![];
        for subfolder in folders {
            let first = files.len();
            collect(kind, &mut walk, &subfolder, &mut files)?;
            let name = subfolder.path.file_name().unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            if files.len() > first {
                let label = u32::try_from(classes.len()).unwrap_or(u32::MAX);
                labels.resize(files.len(), label);
                classes.push(name);
            } else {
                empty.push(name);
            }
        }
        walk.end();
        let labelled = files.len();
        keep(kind, loose, &mut files, &mut walk.passed_over);
        if files.is_empty() {
            return Err(nothing(kind, root, &walk.passed_over));
        }
        let mut notes = walk.passed_over.lines();
        if !empty.is_empty() && !classes.is_empty() {
            let names = empty.join(", ");
            notes.push(format!("no {} in the folders {names}", kind.what));
        }
        if files.len() > labelled && labelled > 0 {
            let what = kind.what;
            notes.push(format!(
                "{what} lie beside subfolders of {what}; all are taken, without labels"
            ));
        }
        if files.len() > labelled {
            (labels, classes) = (vec![], vec![]);
            files.sort_unstable();
        }
        let notes = notes.into_iter();
        Ok(Self {
            kind,
            files,
            labels,
            classes,
            how: ReadImage::default(),
            notes: notes
                .map(|note| format!("{}: {note}", root.display()))
                .collect(),
        })
    }

    /// The same images with the labels of `known` classes; those of other classes are left out.
    fn relabelled(mut self, known: Vec<String>, folder: &Path) -> Result<Self> {
        if known.is_empty() || self.classes.is_empty() {
            (self.labels, self.classes) = (vec![], vec![]);
            return Ok(self);
        }
        let label = |name: &String| {
            let label = known.iter().position(|class| class == name);
            label.and_then(|label| u32::try_from(label).ok())
        };
        let of_known: Vec<Option<u32>> = self.classes.iter().map(label).collect();
        let unknown: Vec<&str> = std::iter::zip(&self.classes, &of_known)
            .filter(|(_, label)| label.is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        let before = self.files.len();
        let labels = self.labels.iter().map(|label| of_known[*label as usize]);
        let kept = std::iter::zip(std::mem::take(&mut self.files), labels);
        let kept = kept.filter_map(|(file, label)| Some((file, label?)));
        let (files, labels): (Vec<PathBuf>, Vec<u32>) = kept.unzip();
        if !unknown.is_empty() {
            let (lost, names) = (before - files.len(), unknown.join(", "));
            let note = format!(
                "{}: left out {lost} {} of classes that the train split does not have: {names}",
                folder.display(),
                self.kind.what
            );
            self.notes.push(note);
        }
        if files.is_empty() {
            return Err(Error::format(
                folder,
                "the train split has no class of the names of its subfolders",
                "use the same subfolder names in both splits",
            ));
        }
        (self.files, self.labels, self.classes) = (files, labels, known);
        Ok(self)
    }
}

/// The error of a folder without a file of a kind.
fn nothing(kind: Files, root: &Path, passed_over: &PassedOver) -> Error {
    let others = match passed_over.kinds() {
        kinds if kinds.is_empty() => String::new(),
        kinds => format!(": {kinds}"),
    };
    let count = passed_over.files();
    let what = kind.what;
    let what = format!("holds no {what}, only {count} files of other kinds{others}");
    Error::format(root, what, kind.fix)
}

impl Dataset for FolderDataset {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn read(&self, index: usize) -> Result<Sample> {
        let path = self
            .files
            .get(index)
            .ok_or_else(|| out_of_range(index, self.len()))?;
        (self.kind.read)(path, &self.how)
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

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn name_of(&self, index: usize) -> String {
        self.files
            .get(index)
            .map_or_else(|| format!("#{index}"), |path| path.display().to_string())
    }
}

/// The folder of a split, by any of its names.
fn find(root: &Path, split: Split) -> Result<Option<PathBuf>> {
    let listing = Listing::of(root)?;
    let names = listing.folders.iter().chain(&listing.links);
    let of_split = |name: &&std::ffi::OsString| {
        let name = name.to_str();
        name.is_some_and(|name| Split::of_name(name) == Some(split))
    };
    let mut found: Vec<PathBuf> = names.filter(of_split).map(|name| root.join(name)).collect();
    found.sort_unstable();
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

/// Adds the files of a kind in a folder and all below it.
fn collect(kind: Files, walk: &mut Walk, folder: &Folder, images: &mut Vec<PathBuf>) -> Result<()> {
    let (folders, files) = walk.enter(folder)?;
    keep(kind, files, images, &mut walk.passed_over);
    folders
        .iter()
        .try_for_each(|folder| collect(kind, walk, folder, images))
}

/// Whether a folder, or one up to three below it, holds a file that is a point cloud by name before any image.
pub(super) fn holds_clouds(folder: &Path, depth: usize) -> bool {
    let Ok(listing) = Listing::of(folder) else {
        return false;
    };
    let of = |kind: Files| {
        let mut files = listing.files.iter();
        files.any(|name| kind.names(Path::new(name)))
    };
    if of(CLOUDS) || of(IMAGES) {
        return !of(IMAGES);
    }
    let mut folders = listing.folders.iter().chain(&listing.links);
    depth < 3 && folders.any(|name| holds_clouds(&folder.join(name), depth + 1))
}
