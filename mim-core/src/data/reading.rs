//! How the files of a data source are read.

use serde::{Deserialize, Serialize};

use super::DataSource;
use crate::{Error, Result};

/// How a [`DataSource`] is read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reading {
    /// The column of images, for files with columns. By default it is found by the usual names.
    pub image_column: Option<String>,
    /// The column of labels, found in the same way by default.
    pub label_column: Option<String>,
    /// Whether images are turned upright, as the orientation noted in their files says.
    pub orientation: Orientation,
    /// The values that become 0 and 1. If set, images are deep: of any bit depth and number of channels. Otherwise they
    /// are read as RGB bytes.
    pub range: Option<ValueRange>,
    /// The order of the axes in `.npy` and `.npz` files, in folders, lists and tar files. If set, these files are read as
    /// images.
    pub array_layout: Option<ArrayLayout>,
    /// The name of the array, for `.npz` files with several arrays.
    pub array_key: Option<String>,
    /// Pages of TIFF files.
    pub tiff_pages: TiffPages,
}

/// Which values of a file become 0 and 1 in a deep image. Values beyond them map outside of `[0, 1]`; none is clipped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum ValueRange {
    /// 0 and the largest value of the file's data type. Floats stay as they are. Written `"dtype"`.
    Dtype,
    /// The 1st and the 99th percentile of the training images. `mim` measures them and writes the two bounds in their
    /// place. Written `"percentile"`.
    Percentile,
    /// These values.
    Bounds([f64; 2]),
}

/// A [`ValueRange`] as settings spell it.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a range of values is \"dtype\", \"percentile\" or [low, high]"
)]
enum Written {
    Word(String),
    Bounds([f64; 2]),
}

impl TryFrom<Written> for ValueRange {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Bounds(bounds) => Ok(Self::Bounds(bounds)),
            Written::Word(word) if word == "dtype" => Ok(Self::Dtype),
            Written::Word(word) if word == "percentile" => Ok(Self::Percentile),
            Written::Word(word) => Err(format!(
                "{word:?} is no range of values; write \"dtype\", \"percentile\" or [low, high]"
            )),
        }
    }
}

impl From<ValueRange> for Written {
    fn from(range: ValueRange) -> Self {
        match range {
            ValueRange::Dtype => Self::Word("dtype".to_owned()),
            ValueRange::Percentile => Self::Word("percentile".to_owned()),
            ValueRange::Bounds(bounds) => Self::Bounds(bounds),
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

/// Which pages of a TIFF file are read as a deep image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TiffPages {
    /// The first page.
    #[default]
    First,
    /// All pages, one after another along the channels.
    Channels,
}

/// How one image file is read.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct ReadImage {
    pub(super) turned: bool,
    pub(super) range: Option<ValueRange>,
    pub(super) layout: Option<ArrayLayout>,
    pub(super) array_key: Option<String>,
    pub(super) pages: TiffPages,
}

/// What to do about the orientation noted in an image file (EXIF, as phones and cameras write it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// What the source's own tools do. Images of folders, lists and tar files stay as stored, as in torchvision and
    /// WebDataset. Images of parquet files and of the Hub are turned, as in `datasets`.
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
            array_key: self.array_key.clone(),
            pages: self.tiff_pages,
        }
    }

    /// Refuses choices that `source` does not use.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], which names the setting.
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
        self.check_range(source)?;
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

    /// Checks the range of values, and what needs one.
    fn check_range(&self, source: &DataSource) -> Result<()> {
        let bad = |field: &'static str, value: String, why: String, fix: &'static str| {
            Err(Error::config("data", field, value, why, fix))
        };
        match self.range {
            Some(ValueRange::Bounds([low, high])) if !(low < high && (high - low).is_finite()) => {
                let (value, why) = (format!("[{low}, {high}]"), "it is a range [low, high]");
                let fix = "write the lower of two different numbers first";
                return bad("range", value, why.to_owned(), fix);
            }
            Some(ValueRange::Percentile) => {
                let why = "it was not measured".to_owned();
                let fix = "write the numbers that `mim data stats` prints: range = [low, high]";
                return bad("range", "\"percentile\"".to_owned(), why, fix);
            }
            _ => {}
        }
        if self.range.is_some() && !source.has_image_files() {
            let why = format!("{source} has no image files");
            return bad("range", "given".to_owned(), why, "leave it out");
        }
        let of_values = [
            ("array_layout", self.array_layout.is_some()),
            ("array_key", self.array_key.is_some()),
            ("tiff_pages", self.tiff_pages != TiffPages::First),
        ];
        for (field, _) in of_values.into_iter().filter(|(_, given)| *given) {
            if self.range.is_none() {
                let why = "such files are read as values, whose range is not said".to_owned();
                let fix = "add data.range = \"dtype\" or [low, high]";
                return bad(field, "given".to_owned(), why, fix);
            }
        }
        Ok(())
    }
}
