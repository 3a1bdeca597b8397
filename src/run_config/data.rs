//! The images of a run.

use std::fmt;
use std::sync::Arc;

use mim_core::data::{
    ArrayLayout, DataSource, Dataset, LoaderConfig, Orientation, Reading, Split, TiffPages,
    ValueRange, hold_out,
};
use mim_core::{Error, Result};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// Data source and loading settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// `embedded`, a path, `idx:`, `folder:`, `list:`, `tar:`, `cifar:` or `parquet:` and a path, or `hf:owner/name`;
    /// several of them joined by ` + `. Default `embedded`.
    pub source: DataSource,
    /// The column of images, or of their paths, in lists, tar and parquet files; the usual names are looked for if none
    /// is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    /// The column of labels, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// Whether images are turned as their files note (EXIF): `turned`, `stored`, or `auto`, the default, as the
    /// source's own tools do: images of parquet files and of the Hub are turned, others are not.
    #[serde(skip_serializing_if = "is_auto")]
    pub orientation: Orientation,
    /// The values that become 0 and 1: `"dtype"` (0 and the largest of the file's type; floats stay as they are),
    /// `"percentile"` (the 1st and 99th of training images, measured before training) or `[low, high]`. With it images of any depth and number of channels are read, such as TIFF of 12 bands of f32; without
    /// it all are read as RGB of 8 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<ValueRange>,
    /// The order of the axes of `.npy` and `.npz` files in folders, lists and tar files, `hwc` or `chw`; needs `range`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub array_layout: Option<ArrayLayout>,
    /// The name of the array that is the image, in `.npz` files of several arrays; needs `range`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub array_key: Option<String>,
    /// Pages of TIFF files: `first` (default), or `channels`, which takes all and joins their channels; needs `range`.
    #[serde(skip_serializing_if = "is_first")]
    pub tiff_pages: TiffPages,
    /// Channels that pictures show as red, green and blue, counted from 0, of images of more than three; default the
    /// first three.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shown_channels: Option<[usize; 3]>,
    /// Share of each class of the training images that is used; the selection does not depend on the seed. Default 1.
    #[serde(skip_serializing_if = "is_all")]
    pub train_share: f64,
    /// Share of each class of the training images that is held out for probes if the data has labels but neither a val
    /// nor a test split; 0 holds out none. Default 0.1.
    pub val_share: f64,
    /// Threads that decode and augment; with 0 the main thread does it between steps. Default 1.
    pub workers: usize,
    /// Batches prepared in advance. Default 2.
    pub prefetch: usize,
    /// Share of unreadable images that an epoch tolerates. Default 0.05.
    pub max_bad_share: f64,
    /// Images among which the next one is drawn, of tar files and of more than 1 GiB of parquet files, through which an
    /// epoch goes file by file. By default 10000, and half a GiB of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shuffle_window: Option<usize>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_all(share: &f64) -> bool {
    *share >= 1.
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_auto(orientation: &Orientation) -> bool {
    *orientation == Orientation::Auto
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_first(pages: &TiffPages) -> bool {
    *pages == TiffPages::First
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: DataSource::Embedded,
            image_column: None,
            label_column: None,
            orientation: Orientation::Auto,
            range: None,
            array_layout: None,
            array_key: None,
            tiff_pages: TiffPages::First,
            shown_channels: None,
            train_share: 1.,
            val_share: 0.1,
            workers: 1,
            prefetch: 2,
            max_bad_share: 0.05,
            shuffle_window: None,
        }
    }
}

/// Images for training, and images for measuring results.
#[derive(Debug, Clone)]
pub struct Images {
    /// The training images.
    pub train: Arc<dyn Dataset>,
    /// The images for measuring results; `None` if the data has no such images.
    pub held_out: Option<(HeldOut, Arc<dyn Dataset>)>,
}

/// Where the images for measuring results come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOut {
    /// A split of the data set.
    Split(Split),
    /// A share of the training images ([`DataConfig::val_share`]).
    Share(f64),
}

impl Images {
    /// What was chosen or passed over when they were opened ([`Dataset::notes`]), each line once.
    pub fn notes(&self) -> Vec<&str> {
        let held_out = self.held_out.iter().flat_map(|(_, images)| images.notes());
        let mut notes: Vec<&str> = vec![];
        for note in self.train.notes().iter().chain(held_out) {
            if !notes.contains(&note.as_str()) {
                notes.push(note);
            }
        }
        notes
    }
}

impl fmt::Display for HeldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split(split) => split.fmt(f),
            Self::Share(share) => write!(f, "{share} of train"),
        }
    }
}

impl DataConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn check(&self) -> Result<()> {
        let (name, value, fix) = if !(0. ..1.).contains(&self.val_share) {
            let fix = "use a number from 0 to below 1, such as 0.1";
            ("data.val_share", self.val_share, fix)
        } else if !(self.train_share > 0. && self.train_share <= 1.) {
            let fix = "use a number above 0, up to 1";
            ("data.train_share", self.train_share, fix)
        } else {
            return Ok(());
        };
        let why = "it must be a valid share of the training images";
        Err(Error::config("settings", name, value, why, fix))
    }

    /// Opens a split of the source as the settings say, whole.
    ///
    /// # Errors
    ///
    /// As [`DataSource::open_with`].
    pub fn open_source(&self, split: Split) -> Result<Arc<dyn Dataset>> {
        self.source.open_with(split, &self.reading())
    }

    fn reading(&self) -> Reading {
        Reading {
            image_column: self.image_column.clone(),
            label_column: self.label_column.clone(),
            orientation: self.orientation,
            range: self.range,
            array_layout: self.array_layout,
            array_key: self.array_key.clone(),
            tiff_pages: self.tiff_pages,
        }
    }

    /// The same settings for other images, without those that they have no use for.
    #[must_use]
    pub fn of(&self, source: DataSource) -> Self {
        let mut other = Self {
            source,
            shuffle_window: None,
            ..self.clone()
        };
        if !other.source.has_columns() {
            (other.image_column, other.label_column) = (None, None);
        }
        if !other.source.has_image_files() {
            other.orientation = Orientation::Auto;
            (other.range, other.array_layout, other.array_key) = (None, None, None);
            other.tiff_pages = TiffPages::First;
        }
        other
    }

    /// The val or test images, or the training images where there are no others.
    ///
    /// # Errors
    ///
    /// As [`DataSource::open_with`].
    pub fn open_for_pictures(&self) -> Result<Arc<dyn Dataset>> {
        match self.source.open_for_evaluation(&self.reading()) {
            Ok((_, images)) => Ok(images),
            Err(Error::NoSplit { .. }) => self.open_source(Split::Train),
            Err(error) => Err(error),
        }
    }

    /// The training images, or the used share of them.
    fn open_train(&self) -> Result<Arc<dyn Dataset>> {
        let all = self.open_source(Split::Train)?;
        if self.train_share < 1. {
            let (_, share) = hold_out(&all, self.train_share, 0)?;
            return Ok(Arc::new(share));
        }
        Ok(all)
    }

    /// Opens the images: those for training, and for measuring the first available of val, test, or a held-out share.
    /// The share depends on `seed`.
    ///
    /// # Errors
    ///
    /// If the training images cannot be opened, or the others exist and cannot be opened.
    pub fn open(&self, seed: u64) -> Result<Images> {
        self.check()?;
        let train = self.open_train()?;
        match self.source.open_for_evaluation(&self.reading()) {
            Ok((split, images)) => Ok(Images {
                train,
                held_out: Some((HeldOut::Split(split), images)),
            }),
            Err(Error::NoSplit { .. }) if self.val_share > 0. && train.classes() > 0 => {
                let (rest, held) = hold_out(&train, self.val_share, seed)?;
                let images: Arc<dyn Dataset> = Arc::new(held);
                let some = !images.is_empty();
                Ok(Images {
                    train: Arc::new(rest),
                    held_out: some.then_some((HeldOut::Share(self.val_share), images)),
                })
            }
            Err(Error::NoSplit { .. }) => Ok(Images {
                train,
                held_out: None,
            }),
            Err(error) => Err(error),
        }
    }

    /// Opens one split. If the data has neither a val nor a test split, val is the share held out by a run with this
    /// `seed`.
    ///
    /// # Errors
    ///
    /// Those of [`DataConfig::open`]; [`Error::NoSplit`] if the split does not exist.
    pub fn open_split(&self, split: Split, seed: u64) -> Result<Arc<dyn Dataset>> {
        let opened = match split {
            Split::Train => self.open_train(),
            _ => self.open_source(split),
        };
        match (split, opened) {
            (Split::Val, Err(error @ Error::NoSplit { .. })) => match self.open(seed)?.held_out {
                Some((HeldOut::Share(_), images)) => Ok(images),
                _ => Err(error),
            },
            (_, opened) => opened,
        }
    }

    /// Loader settings for batches of `batch_size` images.
    pub fn loading(&self, batch_size: usize) -> LoaderConfig {
        LoaderConfig {
            batch_size,
            workers: self.workers,
            prefetch: self.prefetch,
            max_bad_share: self.max_bad_share,
            shuffle_window: self.shuffle_window,
            ..LoaderConfig::default()
        }
    }
}

/// Completes the settings of a run written by an older version, which held no images out.
pub(super) fn of_older_run(table: &mut Table) {
    if let Some(data) = table.get_mut("data").and_then(Value::as_table_mut) {
        data.entry("val_share").or_insert(Value::Float(0.));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_images_are_measured_on_their_test_split() {
        let images = DataConfig::default().open(0).unwrap();
        assert_eq!(images.train.len(), 1000);
        let (which, held) = images.held_out.unwrap();
        assert_eq!((which, held.len()), (HeldOut::Split(Split::Test), 500));
        let error = DataConfig::default().open_split(Split::Val, 0).unwrap_err();
        assert!(
            error.to_string().contains("there is no val split"),
            "{error}"
        );
    }

    #[test]
    fn only_the_set_share_of_the_training_images_is_used() {
        let share = |train_share, val_share| DataConfig {
            train_share,
            val_share,
            ..DataConfig::default()
        };
        let few = share(0.05, 0.1);
        assert_eq!(few.open(0).unwrap().train.len(), 50);
        let train = few.open_split(Split::Train, 1).unwrap();
        assert_eq!((train.len(), train.name_of(7)), {
            let same = few.open(2).unwrap().train;
            (50, same.name_of(7))
        });
        for (config, named) in [
            (share(1., 1.), "data.val_share"),
            (share(0., 0.1), "data.train_share"),
            (share(1.5, 0.1), "data.train_share"),
            (share(f64::NAN, 0.1), "data.train_share"),
        ] {
            let error = config.open(0).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
