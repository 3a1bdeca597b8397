//! How the files of a data source are read.

use serde::{Deserialize, Serialize};

use super::DataSource;
use crate::{Error, Result};

/// Choices of how a [`DataSource`] is read, beyond where it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reading {
    /// The column of images, of files with columns; by default the usual names are looked for.
    pub image_column: Option<String>,
    /// The column of labels, likewise.
    pub label_column: Option<String>,
    /// Whether images are turned as their files say.
    pub orientation: Orientation,
    /// The values that become 0 and 1, which makes images deep: of any depth and number of channels. Without it they
    /// are read as RGB of bytes.
    pub range: Option<ValueRange>,
    /// The order of axes of `.npy` files, which are images if it is said.
    pub array_layout: Option<ArrayLayout>,
}

/// Which values of a file become 0 and 1 of a deep image; others lie outside, none is clipped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ValueRange {
    /// 0 and the largest value of the file's type; values of floats stay as they are. Written `"dtype"`.
    #[serde(with = "dtype")]
    Dtype,
    /// These values.
    Bounds([f32; 2]),
}

/// The text that stands for [`ValueRange::Dtype`].
mod dtype {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    const TEXT: &str = "dtype";

    pub(super) fn serialize<S: Serializer>(to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(TEXT)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
        match String::deserialize(from)?.as_str() {
            TEXT => Ok(()),
            other => Err(D::Error::custom(format!("{other:?} is not \"dtype\""))),
        }
    }
}

/// The order of the axes of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrayLayout {
    /// `[height, width, channels]`.
    Hwc,
    /// `[channels, height, width]`.
    Chw,
}

/// How one image file is read.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct ReadImage {
    pub(super) turned: bool,
    pub(super) range: Option<ValueRange>,
    pub(super) layout: Option<ArrayLayout>,
}

/// What is done about the orientation that an image file notes (EXIF, as phones and cameras write it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// What the source's own tools do: images of folders, lists and tar files stay as stored, as torchvision's and
    /// WebDataset's do; those of parquet files and of the Hub are turned, as by `datasets`.
    #[default]
    Auto,
    /// Images are turned upright.
    Turned,
    /// Images stay as stored.
    Stored,
}

impl Reading {
    /// How image files are read, in a source whose own tools turn them or not.
    pub(super) fn images(&self, turned_by_default: bool) -> ReadImage {
        ReadImage {
            turned: match self.orientation {
                Orientation::Auto => turned_by_default,
                Orientation::Turned => true,
                Orientation::Stored => false,
            },
            range: self.range,
            layout: self.array_layout,
        }
    }

    /// Refuses choices that `source` has no use for.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] naming the setting.
    pub(super) fn check(&self, source: &DataSource) -> Result<()> {
        let columns = [
            ("image_column", &self.image_column),
            ("label_column", &self.label_column),
        ];
        for (field, column) in columns {
            if let (Some(column), false) = (column, source.has_columns()) {
                let why = format!("{source} has no columns");
                let fix = "leave it out; it is for list:, tar:, parquet: and hf:";
                return Err(Error::config("data", field, column, why, fix));
            }
        }
        if let Some(ValueRange::Bounds([low, high])) = self.range
            && !(low < high && (high - low).is_finite())
        {
            let (value, why) = (format!("[{low}, {high}]"), "it is a range [low, high]");
            let fix = "write the lower of two different numbers first";
            return Err(Error::config("data", "range", value, why, fix));
        }
        if self.array_layout.is_some() && self.range.is_none() {
            let why = "arrays are read as values, whose range is not said";
            let fix = "add data.range = \"dtype\" or [low, high]";
            return Err(Error::config("data", "array_layout", "given", why, fix));
        }
        if self.range.is_some() && !source.has_image_files() {
            let why = format!("{source} has no image files");
            return Err(Error::config("data", "range", "given", why, "leave it out"));
        }
        if self.orientation != Orientation::Auto && !source.has_image_files() {
            let why = format!("{source} has no image files");
            let value = match self.orientation {
                Orientation::Turned => "turned",
                _ => "stored",
            };
            let fix = "leave it out";
            return Err(Error::config("data", "orientation", value, why, fix));
        }
        Ok(())
    }
}
