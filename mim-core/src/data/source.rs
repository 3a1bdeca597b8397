//! Data sources as recipes and command lines name them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

#[cfg(feature = "parquet")]
use super::ParquetDataset;
use super::{
    Dataset, FolderDataset, JoinedDataset, ListDataset, Reading, ShapesDataset, Split, TarDataset,
    cifar, embedded, folder::holds_clouds, idx,
};
#[cfg(all(feature = "hub", feature = "parquet"))]
use crate::hub::Hub;
use crate::hub::{HubPath, RepoKind};
use crate::{Error, Result};

/// Where images or point clouds come from.
///
/// It is written `embedded`, `shapes`, `PATH`, `idx:PATH`, `folder:PATH`, `cifar:PATH`, `clouds:PATH`, `list:FILE`,
/// `tar:PATH`, `parquet:PATH` or `hf:owner/name[@revision][/folder]`; several of them are joined by ` + `. `~/` at the
/// start of a path is the home folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DataSource {
    /// The excerpt of Fashion-MNIST inside the library: 1000 + 500 grey images of 28 x 28, ten classes.
    #[default]
    Embedded,
    /// A folder whose kind follows from its content, or a file whose kind follows from its name.
    Detect(PathBuf),
    /// A folder of IDX files with MNIST's names.
    Idx(PathBuf),
    /// Point clouds of ten analytic shapes, generated when they are read; see [`ShapesDataset`].
    Shapes,
    /// A folder of image files; see [`FolderDataset`].
    Folder(PathBuf),
    /// A folder of point clouds, one per file, laid out like folders of images (see [`FolderDataset`]):
    ///
    /// - `.npy`: an array `[points, 3 or more]`, whose first three columns are taken;
    /// - `.npz`: the same kind of array, called `points`, `xyz` or `pos`, or the only one with two axes;
    /// - `.ply`, as text or binary: the properties `x`, `y`, `z` of its vertices;
    /// - `.off`: 4096 points spread over its faces, or its vertices if it has no face;
    /// - `.xyz`: lines of three or more numbers, the first three of which are taken; `#` starts a comment.
    Clouds(PathBuf),
    /// A folder of CIFAR-10 or CIFAR-100 in its binary version.
    Cifar(PathBuf),
    /// Images that a file lists; see [`ListDataset`].
    List(PathBuf),
    /// Images in tar files; see [`TarDataset`].
    Tar(PathBuf),
    /// Several sources as one; see [`JoinedDataset`].
    Joined(Vec<DataSource>),
    /// A parquet file or a folder of parquet files; see `ParquetDataset`. It needs the feature `parquet`.
    Parquet(PathBuf),
    /// A data set of parquet files on the Hugging Face Hub. It needs the features `hub` and `parquet`.
    Hub(HubPath),
}

impl DataSource {
    /// Opens a split.
    ///
    /// # Errors
    ///
    /// [`Error::NoSplit`] if the split is missing; [`Error::Format`] if the path is not a folder, or holds no data of
    /// its kind; [`Error::Io`] if it cannot be read; [`Error::Hub`] if it cannot be downloaded; [`Error::Unsupported`]
    /// if this build lacks the feature for it.
    pub fn open(&self, split: Split) -> Result<Arc<dyn Dataset>> {
        self.open_with(split, &Reading::default())
    }

    /// Opens a split, which is read as `reading` says.
    ///
    /// # Errors
    ///
    /// As [`DataSource::open`]; [`Error::InvalidConfig`] if this source does not use a choice of `reading`.
    pub fn open_with(&self, split: Split, reading: &Reading) -> Result<Arc<dyn Dataset>> {
        if let Self::Detect(path) = self {
            let source = match Self::detect(path)? {
                // Arrays are point clouds unless the order of their axes is said.
                Self::Clouds(path) if reading.array_layout.is_some() => Self::Folder(path),
                source => source,
            };
            return source.open_with(split, reading);
        }
        reading.check(self)?;
        Ok(match self {
            Self::Embedded => Arc::new(embedded::open(split)?),
            Self::Detect(path) => return Self::detect(path)?.open_with(split, reading),
            Self::Joined(sources) => {
                let names: Vec<String> = sources.iter().map(Self::to_string).collect();
                let open = |place: usize, split| sources[place].open_with(split, reading);
                Arc::new(JoinedDataset::open(&names, split, open)?)
            }
            Self::List(path) => Arc::new(ListDataset::open(existing(path)?, split, reading)?),
            Self::Tar(path) => Arc::new(TarDataset::open(path, split, reading)?),
            Self::Idx(path) => Arc::new(idx::open(folder(path)?, split)?),
            Self::Shapes => Arc::new(ShapesDataset::open(split)?),
            Self::Folder(path) => {
                Arc::new(FolderDataset::open_with(folder(path)?, split, reading)?)
            }
            Self::Clouds(path) => Arc::new(FolderDataset::open_clouds(folder(path)?, split)?),
            Self::Cifar(path) => Arc::new(cifar::open(folder(path)?, split)?),
            #[cfg(feature = "parquet")]
            Self::Parquet(path) => {
                Arc::new(ParquetDataset::open_with(existing(path)?, split, reading)?)
            }
            #[cfg(all(feature = "hub", feature = "parquet"))]
            Self::Hub(path) => Arc::new(ParquetDataset::open_hub_with(
                &Hub::from_env()?,
                path,
                split,
                reading,
            )?),
            #[cfg(all(not(feature = "hub"), feature = "parquet"))]
            Self::Hub(path) => return Err(crate::hub::missing(path)),
            #[cfg(not(feature = "parquet"))]
            Self::Parquet(_) | Self::Hub(_) => {
                return Err(Error::unsupported(
                    format!("the data source {self}"),
                    "this build cannot read parquet files",
                    "build with --features parquet",
                ));
            }
        })
    }

    /// The default split for results: val, or test if there is no val.
    ///
    /// # Errors
    ///
    /// [`Error::NoSplit`] if there is neither; otherwise as [`DataSource::open`].
    pub fn open_for_evaluation(&self, reading: &Reading) -> Result<(Split, Arc<dyn Dataset>)> {
        match self.open_with(Split::Val, reading) {
            Ok(images) => Ok((Split::Val, images)),
            Err(Error::NoSplit { .. }) => Ok((Split::Test, self.open_with(Split::Test, reading)?)),
            Err(error) => Err(error),
        }
    }

    /// Whether its files have columns or named parts to choose from.
    pub fn has_columns(&self) -> bool {
        match self {
            Self::List(_) | Self::Tar(_) | Self::Parquet(_) | Self::Hub(_) => true,
            Self::Joined(sources) => sources.iter().any(Self::has_columns),
            Self::Detect(path) => Self::detect(path).is_ok_and(|source| source.has_columns()),
            _ => false,
        }
    }

    /// Whether it holds image files, which may note an orientation.
    pub fn has_image_files(&self) -> bool {
        match self {
            Self::Folder(_) => true,
            Self::Joined(sources) => sources.iter().any(Self::has_image_files),
            Self::Detect(path) => Self::detect(path).is_ok_and(|source| source.has_image_files()),
            other => other.has_columns(),
        }
    }

    fn detect(path: &Path) -> Result<Self> {
        let names = path.to_string_lossy();
        if names.ends_with(".tar") && !path.is_dir() {
            return Ok(Self::Tar(path.into()));
        }
        if path.is_file() && ListDataset::recognises(path) {
            return Ok(Self::List(path.into()));
        }
        if path.is_file() && names.ends_with(".parquet") {
            return Ok(Self::Parquet(path.into()));
        }
        let path = folder(path)?;
        Ok(if idx::recognises(path) {
            Self::Idx(path.into())
        } else if cifar::recognises(path) {
            Self::Cifar(path.into())
        } else if holds(path, "parquet") {
            Self::Parquet(path.into())
        } else if holds(path, "tar") {
            Self::Tar(path.into())
        } else if holds_clouds(path, 0) {
            Self::Clouds(path.into())
        } else {
            Self::Folder(path.into())
        })
    }
}

const FIX: &str = "give the path of a folder of images, point clouds, IDX files, CIFAR records, parquet or tar files, of a list of images (.csv, .tsv, .jsonl, .txt), `embedded` or `shapes`";

/// What stands between several sources.
const JOINT: &str = " + ";

/// A path with the home folder in place of `~`: shells do not put it there behind `folder:`.
fn at_home(path: &str) -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    match path.strip_prefix("~/") {
        Some(rest) if !home.is_empty() => format!("{}/{rest}", home.trim_end_matches('/')),
        _ => path.to_owned(),
    }
}

/// `path`, if it is there.
fn existing(path: &Path) -> Result<&Path> {
    if path.exists() {
        Ok(path)
    } else {
        Err(Error::format(path, "does not exist", FIX))
    }
}

/// `path`, if it is a folder.
fn folder(path: &Path) -> Result<&Path> {
    if existing(path)?.is_dir() {
        Ok(path)
    } else {
        Err(Error::format(path, "is not a folder", FIX))
    }
}

/// Whether files of an ending lie in a folder or in `data` in it, as in downloaded data sets.
fn holds(path: &Path, ending: &str) -> bool {
    [path.to_owned(), path.join("data")].iter().any(|folder| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .any(|path| path.extension().is_some_and(|kind| kind == ending))
    })
}

impl FromStr for DataSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.contains(JOINT) {
            let sources = text.split(JOINT).map(Self::from_str);
            return sources.collect::<Result<_>>().map(Self::Joined);
        }
        let (kind, path) = match text.split_once(':') {
            Some(("hf", _)) => return HubPath::parse(text, RepoKind::Dataset).map(Self::Hub),
            Some((
                kind @ ("idx" | "folder" | "cifar" | "clouds" | "list" | "tar" | "parquet"),
                path,
            )) => (kind, path),
            _ => ("", text),
        };
        if path.trim().is_empty() {
            return Err(Error::config(
                "data",
                "source",
                format!("{text:?}"),
                "the path is missing",
                "write embedded, shapes, PATH, idx:PATH, folder:PATH, cifar:PATH, clouds:PATH, list:FILE, tar:PATH, parquet:PATH or hf:owner/name",
            ));
        }
        let path = &at_home(path);
        Ok(match kind {
            "idx" => Self::Idx(path.into()),
            "folder" => Self::Folder(path.into()),
            "cifar" => Self::Cifar(path.into()),
            "clouds" => Self::Clouds(path.into()),
            "list" => Self::List(path.into()),
            "tar" => Self::Tar(path.into()),
            "parquet" => Self::Parquet(path.into()),
            _ if text == "embedded" => Self::Embedded,
            _ if text == "shapes" => Self::Shapes,
            _ => Self::Detect(path.into()),
        })
    }
}

impl fmt::Display for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Detect(path) => write!(f, "{}", path.display()),
            Self::Idx(path) => write!(f, "idx:{}", path.display()),
            Self::Folder(path) => write!(f, "folder:{}", path.display()),
            Self::Cifar(path) => write!(f, "cifar:{}", path.display()),
            Self::Shapes => f.write_str("shapes"),
            Self::Clouds(path) => write!(f, "clouds:{}", path.display()),
            Self::List(path) => write!(f, "list:{}", path.display()),
            Self::Tar(path) => write!(f, "tar:{}", path.display()),
            Self::Joined(sources) => {
                let names: Vec<String> = sources.iter().map(Self::to_string).collect();
                f.write_str(&names.join(JOINT))
            }
            Self::Parquet(path) => write!(f, "parquet:{}", path.display()),
            Self::Hub(path) => path.fmt(f),
        }
    }
}

impl TryFrom<String> for DataSource {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DataSource> for String {
    fn from(source: DataSource) -> Self {
        source.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_they_are_written() {
        for text in [
            "embedded",
            "a/b",
            "idx:a",
            "folder:c:d",
            "cifar:/x y",
            "shapes",
            "clouds:a/b",
            "./embedded",
            "C:\\x",
            "parquet:a.parquet",
            "list:a.csv",
            "tar:a-{000..123}.tar",
            "folder:a + list:b.csv + c",
            "hf:uoft-cs/cifar10@refs/convert/parquet/plain_text",
        ] {
            let source: DataSource = text.parse().unwrap();
            assert_eq!(source.to_string(), text);
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(serde_json::from_str::<DataSource>(&json).unwrap(), source);
        }
        assert_eq!(
            "idx:a".parse::<DataSource>().unwrap(),
            DataSource::Idx("a".into())
        );
        assert!("".parse::<DataSource>().is_err());
        assert!("folder:".parse::<DataSource>().is_err());
        assert!("hf:mnist".parse::<DataSource>().is_err());
    }

    #[test]
    fn detects_what_is_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(
            DataSource::detect(path).unwrap(),
            DataSource::Folder(path.into())
        );
        std::fs::create_dir(path.join("data")).unwrap();
        std::fs::write(path.join("data/train-00000-of-00001.parquet"), "").unwrap();
        assert_eq!(
            DataSource::detect(path).unwrap(),
            DataSource::Parquet(path.into())
        );
        std::fs::write(path.join("test.bin"), "").unwrap();
        assert_eq!(
            DataSource::detect(path).unwrap(),
            DataSource::Cifar(path.into())
        );
        std::fs::write(path.join("t10k-images-idx3-ubyte.gz"), "").unwrap();
        assert_eq!(
            DataSource::detect(path).unwrap(),
            DataSource::Idx(path.into())
        );
    }

    #[test]
    fn missing_paths_and_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.bin");
        std::fs::write(&file, "").unwrap();
        for (path, what) in [
            (file, "is not a folder"),
            (folder.path().join("b"), "does not exist"),
        ] {
            for source in [
                DataSource::Detect(path.clone()),
                DataSource::Folder(path.clone()),
            ] {
                let error = source.open(Split::Train).unwrap_err().to_string();
                assert!(error.contains(what), "{error}");
            }
        }
    }
}
