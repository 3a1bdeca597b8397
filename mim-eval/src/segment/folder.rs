//! Folders with images and masks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mim_core::data::{Dataset, FolderDataset, Split, decode};
use mim_core::{Error, Result};

use super::dataset::{MaskedDataset, MaskedImage};
use super::indexed_png;

/// Maximum number of file names in an error.
const NAMED: usize = 3;

/// Images in `PATH/SPLIT/images` and masks in `PATH/SPLIT/masks`, PNG files with the same name except for the
/// extension.
///
/// The folder of a split has one of its usual names ([`Split::names`]), in upper or lower case. A mask has one value
/// per pixel, grey or from a palette; the value is the class.
#[derive(Debug)]
pub struct MaskFolder {
    /// An image and its mask.
    files: Vec<(PathBuf, PathBuf)>,
}

impl MaskFolder {
    /// Whether a split folder in `root` has masks.
    pub fn recognises(root: &Path) -> bool {
        let mut all = Split::ALL.into_iter();
        all.any(|split| {
            split_folder(root, split).is_some_and(|folder| folder.join("masks").is_dir())
        })
    }

    /// Lists the images of a split, sorted by name.
    ///
    /// # Errors
    ///
    /// [`Error::NoSplit`] if its folder is missing. [`Error::Format`] if the folder of images or masks is missing or
    /// empty, if two images have the same name, or if images lack masks or masks lack images; it names them.
    /// [`Error::Io`] if a folder cannot be listed.
    pub fn open(root: &Path, split: Split) -> Result<Self> {
        let fix =
            format!("put its images into `{split}/images` and their masks into `{split}/masks`");
        let folder = split_folder(root, split)
            .ok_or_else(|| Error::no_split(root.display(), split, fix.clone()))?;
        let (images, masks) = (folder.join("images"), folder.join("masks"));
        for needed in [&images, &masks] {
            if !needed.is_dir() {
                return Err(Error::format(needed, "does not exist", fix));
            }
        }
        let listed = FolderDataset::open(&images, Split::Train)?;
        let images = by_stem((0..listed.len()).map(|index| listed.name_of(index).into()))?;
        let masks = by_stem(png_files(&masks)?.into_iter())?;
        check(&folder, &images, &masks)?;
        let pairs = images.into_iter().zip(masks);
        Ok(Self {
            files: pairs.map(|((_, image), (_, mask))| (image, mask)).collect(),
        })
    }
}

impl MaskedDataset for MaskFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn read(&self, index: usize) -> Result<MaskedImage> {
        let Some((image, mask)) = self.files.get(index) else {
            let (expected, fix) = (format!("below {}", self.len()), "use indices below len");
            return Err(Error::shape("image index", expected, index, fix));
        };
        MaskedImage::new(decode(image)?, indexed_png::read(mask)?, mask)
    }

    fn name_of(&self, index: usize) -> String {
        let files = self.files.get(index);
        files.map_or_else(
            || format!("#{index}"),
            |(_, mask)| mask.display().to_string(),
        )
    }
}

/// The folder of a split, under any of its names.
fn split_folder(root: &Path, split: Split) -> Option<PathBuf> {
    let entries = std::fs::read_dir(root).ok()?.flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().and_then(Split::of_name) == Some(split))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort_unstable();
    found.into_iter().next()
}

fn png_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if path
            .extension()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("png"))
        {
            files.push(path);
        }
    }
    Ok(files)
}

/// Files by name without extension.
fn by_stem(files: impl Iterator<Item = PathBuf>) -> Result<BTreeMap<String, PathBuf>> {
    let mut all = BTreeMap::new();
    for path in files {
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if let Some(other) = all.insert(stem, path.clone()) {
            let what = format!(
                "{} has the same name except for extension or folder",
                other.display()
            );
            return Err(Error::format(path, what, "rename one of them and its mask"));
        }
    }
    Ok(all)
}

/// Refuses images without a mask, and masks without an image.
fn check(
    folder: &Path,
    images: &BTreeMap<String, PathBuf>,
    masks: &BTreeMap<String, PathBuf>,
) -> Result<()> {
    let alone = |of: &BTreeMap<String, PathBuf>, others: &BTreeMap<String, PathBuf>, what: &str| {
        let names: Vec<&str> = of
            .keys()
            .filter(|name| !others.contains_key(*name))
            .map(String::as_str)
            .collect();
        let more = if names.len() > NAMED { ", ..." } else { "" };
        let shown = names[..names.len().min(NAMED)].join(", ");
        (!names.is_empty()).then(|| format!("{} {what}: {shown}{more}", names.len()))
    };
    let found = [
        alone(images, masks, "images without a mask (masks/NAME.png)"),
        alone(masks, images, "masks without an image"),
    ];
    let found: Vec<String> = found.into_iter().flatten().collect();
    match found.is_empty() {
        true => Ok(()),
        false => {
            let what = format!("images and masks do not match: {}", found.join("; "));
            Err(Error::format(
                folder,
                what,
                "give each image a mask of the same name, or remove the named files",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, RgbImage};
    use std::fs;

    fn add(split: &Path, name: &str, (image, mask): (Option<u32>, Option<u32>)) {
        for (folder, side) in [("images", image), ("masks", mask)] {
            let folder = split.join(folder);
            fs::create_dir_all(&folder).unwrap();
            match (side, folder.ends_with("masks")) {
                (Some(side), true) => {
                    let mask = GrayImage::from_pixel(side, 2, Luma([3]));
                    mask.save(folder.join(name).with_extension("png")).unwrap();
                }
                (Some(side), false) => RgbImage::new(side, 2).save(folder.join(name)).unwrap(),
                _ => {}
            }
        }
    }

    #[test]
    fn images_and_masks_are_matched_by_name() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert!(!MaskFolder::recognises(root));
        add(&root.join("Training"), "b.jpg", (Some(3), Some(3)));
        add(&root.join("Training"), "a.png", (Some(2), Some(2)));
        assert!(MaskFolder::recognises(root));
        let folder = MaskFolder::open(root, Split::Train).unwrap();
        assert_eq!(folder.len(), 2);
        let second = folder.read(1).unwrap();
        assert_eq!((second.image.size(), second.mask), ((2, 3), vec![3; 6]));
        assert!(folder.name_of(1).ends_with("b.png") && folder.read(2).is_err());
        let error = MaskFolder::open(root, Split::Val).unwrap_err().to_string();
        assert!(error.contains("val/masks"), "{error}");
    }

    #[test]
    fn missing_partners_and_other_sizes_are_named() {
        let root = tempfile::tempdir().unwrap();
        let (root, train) = (root.path(), root.path().join("train"));
        let fails = || {
            MaskFolder::open(root, Split::Train)
                .unwrap_err()
                .to_string()
        };
        fs::create_dir_all(train.join("masks")).unwrap();
        assert!(fails().contains("images: does not exist"), "{}", fails());
        fs::create_dir_all(train.join("images")).unwrap();
        assert!(fails().contains("holds no images"), "{}", fails());
        for name in ["a.png", "b.png", "c.png", "d.png"] {
            add(&train, name, (Some(2), None));
        }
        add(&train, "z.png", (None, Some(2)));
        let error = fails();
        assert!(
            error.contains("4 images without a mask") && error.contains("a, b, c, ..."),
            "{error}"
        );
        assert!(error.contains("1 masks without an image: z"), "{error}");
        let other = root.join("val");
        add(&other, "a.png", (Some(2), Some(5)));
        let folder = MaskFolder::open(root, Split::Val).unwrap();
        let error = folder.read(0).unwrap_err().to_string();
        assert!(error.contains("2x5") && error.contains("2x2"), "{error}");
        add(&other, "a.jpg", (Some(2), None));
        let error = MaskFolder::open(root, Split::Val).unwrap_err().to_string();
        assert!(error.contains("the same name"), "{error}");
    }
}
