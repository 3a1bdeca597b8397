//! Kinds of files, by their names.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::super::clouds;
use super::super::image_file::{decode_file, is_image};
use super::super::passed_over::PassedOver;
use super::super::reading::{ArrayLayout, ReadImage};
use crate::Result;
use crate::augment::Sample;

/// What files of one kind are and how they are read.
#[derive(Debug, Clone, Copy)]
pub(in crate::data) struct Files {
    /// Ends of their names.
    pub(super) extensions: &'static [&'static str],
    /// What they hold, in the plural.
    pub(super) what: &'static str,
    /// What to point to.
    pub(super) fix: &'static str,
    pub(super) read: fn(&Path, &ReadImage) -> Result<Sample>,
    /// Whether a file without an ending is of this kind by its content.
    recognises: fn(&Path) -> bool,
}

pub(super) const IMAGES: Files = Files {
    extensions: &[
        "jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "gif", "tif", "tiff", "ppm",
        "pgm", "pbm", "pnm",
    ],
    what: "images",
    fix: "point to a folder of JPEG, PNG, WebP, BMP, GIF, TIFF or PNM files",
    read: decode_file,
    recognises: is_image,
};
/// Images and, if the order of their axes is known, arrays.
pub(super) const IMAGES_AND_ARRAYS: Files = Files {
    extensions: &[
        "jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "gif", "tif", "tiff", "ppm",
        "pgm", "pbm", "pnm", "npy", "npz",
    ],
    ..IMAGES
};
pub(super) const CLOUDS: Files = Files {
    extensions: &["npy", "npz", "ply", "off", "xyz"],
    what: "point clouds",
    fix: "point to a folder of .npy, .npz, .ply, .off or .xyz files",
    read: |path, _| clouds::read(path),
    recognises: |_| false,
};

/// What files of images are: arrays, too, if the order of their axes is known.
pub(in crate::data) fn images(layout: Option<ArrayLayout>) -> Files {
    match layout {
        Some(_) => IMAGES_AND_ARRAYS,
        None => IMAGES,
    }
}

impl Files {
    /// Whether files of this ending, in lower case, are of this kind.
    pub(in crate::data) fn has_ending(self, ending: &str) -> bool {
        self.extensions.contains(&ending)
    }

    /// Whether a file is of this kind by its name.
    pub(super) fn names(self, path: &Path) -> bool {
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        let mut known = self.extensions.iter();
        known.any(|name| extension.eq_ignore_ascii_case(name))
    }
}

/// Adds the files that are of a kind by name, or without an ending by content, and counts the others.
pub(super) fn keep(
    kind: Files,
    files: Vec<PathBuf>,
    images: &mut Vec<PathBuf>,
    others: &mut PassedOver,
) {
    for path in files {
        let nameless = || path.extension().is_none() && (kind.recognises)(&path);
        if kind.names(&path) || nameless() {
            images.push(path);
        } else {
            others.file(&path);
        }
    }
}
