//! How the files of a data source are read.

use serde::{Deserialize, Serialize};

use super::DataSource;
use crate::{Error, Result};

/// Choices of how a [`DataSource`] is read, beyond where it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// The column of images, of files with columns; by default the usual names are looked for.
    pub image_column: Option<String>,
    /// The column of labels, likewise.
    pub label_column: Option<String>,
    /// Whether images are turned as their files say.
    pub orientation: Orientation,
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

impl Orientation {
    /// Whether images are turned, in a source whose own tools turn them or not.
    pub(super) fn turns(self, by_default: bool) -> bool {
        match self {
            Self::Auto => by_default,
            Self::Turned => true,
            Self::Stored => false,
        }
    }
}

impl Reading {
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
