//! Folders of image files.

use std::ffi::OsStr;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ColorType, ImageReader};

use super::{Dataset, Split};
use crate::augment::Sample;
use crate::{Error, Result};

/// Images of a folder (`.jpg`, `.jpeg`, `.png`, `.webp`), always as RGB, in the order of their names.
///
/// The folder may have a folder for each split, by any of its usual names ([`Split::names`]) in any case of letters;
/// else it is all train split. Inside a split, images in subfolders (at any depth) are labelled by the first; images
/// beside one another are unlabelled. Names that start with a dot are skipped, and so are folders that hold a run
/// of `mim pretrain`.
#[derive(Debug)]
pub struct FolderDataset {
    files: Vec<PathBuf>,
    labels: Vec<u32>,
    classes: Vec<String>,
}

impl FolderDataset {
    /// Lists a split of `root`.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if the split is missing, holds no image, or has a class that the train split lacks;
    /// [`Error::Io`] if a folder cannot be listed.
    pub fn open(root: &Path, split: Split) -> Result<Self> {
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
            Split::Train if there.is_empty() => return Self::list(root),
            Split::Train => return Self::list(&train.ok_or_else(missing)?),
            Split::Val => val.ok_or_else(missing)?,
            Split::Test => test.ok_or_else(missing)?,
        };
        match train {
            Some(train) => Self::list(&other)?.relabelled(Self::list(&train)?.classes, &other),
            None => Self::list(&other),
        }
    }

    fn list(folder: &Path) -> Result<Self> {
        let (mut files, mut labels, mut classes) = (vec![], vec![], vec![]);
        let mut others = 0;
        let (folders, loose) = entries(folder)?;
        for subfolder in folders {
            let first = files.len();
            collect(&subfolder, 0, &mut files, &mut others)?;
            if files.len() > first {
                let label = u32::try_from(classes.len()).unwrap_or(u32::MAX);
                labels.resize(files.len(), label);
                let name = subfolder.file_name().unwrap_or_default();
                classes.push(name.to_string_lossy().into_owned());
            }
        }
        let labelled = files.len();
        keep_images(loose, &mut files, &mut others);
        if files.is_empty() {
            return Err(Error::format(
                folder,
                format!("holds no images, only {others} files of other kinds"),
                "point to a folder of .jpg, .jpeg, .png or .webp files",
            ));
        }
        if files.len() > labelled && labelled > 0 {
            tracing::warn!(
                "{}: images lie beside subfolders of images; all are taken, without labels",
                folder.display()
            );
        }
        if files.len() > labelled {
            (labels, classes) = (vec![], vec![]);
            files.sort_unstable();
        }
        Ok(Self {
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
        decode(path)
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

/// Adds the images of a folder and all below it.
fn collect(
    folder: &Path,
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
    keep_images(files, images, others);
    folders
        .iter()
        .try_for_each(|folder| collect(folder, depth + 1, images, others))
}

/// Adds the files that are images by name, and counts the others.
fn keep_images(files: Vec<PathBuf>, images: &mut Vec<PathBuf>, others: &mut usize) {
    for path in files {
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        let known = ["jpg", "jpeg", "png", "webp"];
        if known
            .iter()
            .any(|name| extension.eq_ignore_ascii_case(name))
        {
            images.push(path);
        } else {
            *others += 1;
        }
    }
}

/// Reads an image file of any colour type as RGB: alpha is dropped, of 16-bit values the high byte is kept,
/// and orientation tags are ignored, as by Pillow's `convert("RGB")`.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it cannot be decoded or a JPEG is cut short.
pub fn decode(path: &Path) -> Result<Sample> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    decode_bytes(&bytes, path)
}

/// Reads the bytes of an image file, see [`decode`]; `path` names them in errors.
pub(super) fn decode_bytes(bytes: &[u8], path: &Path) -> Result<Sample> {
    let broken = |what: String| Error::format(path, what, "remove the file or save it again");
    if is_cut_jpeg(bytes) {
        return Err(broken("the JPEG is cut short".into()));
    }
    let image = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(Error::io("read", path))?
        .decode()
        .map_err(|error| broken(format!("cannot be decoded: {error}")))?;
    let size = (image.height() as usize, image.width() as usize);
    let deep = matches!(
        image.color(),
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16
    );
    let pixels = if deep {
        let values = image.into_rgb16().into_raw();
        values
            .into_iter()
            .map(|value| value.to_be_bytes()[0])
            .collect()
    } else {
        image.into_rgb8().into_raw()
    };
    Sample::new(pixels, size, 3)
}

/// Whether a JPEG's last scan has no end marker: the decoder would fill the rest with grey and say nothing.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: u8| {
        bytes
            .array_windows()
            .rposition(|pair| *pair == [0xff, marker])
    };
    bytes.starts_with(&[0xff, 0xd8])
        && !bytes.ends_with(&[0xff, 0xd9])
        && last(0xd9).is_none_or(|end| last(0xda).is_some_and(|scan| scan > end))
}
