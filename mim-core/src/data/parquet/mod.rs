//! Images in parquet files, as data sets on the Hugging Face Hub are kept.
//!
//! A file has a column of encoded images (JPEG, PNG, WebP), plain or as a struct of `bytes` and `path`, and perhaps a
//! column of whole numbers as labels. Its rows lie in groups that can only be read as a whole, so groups stay in
//! memory once read: all of a small data set, the last used ones of a large one.

mod columns;
#[cfg(feature = "hub")]
mod hub;
mod memory;
mod shard;
mod split;

use std::path::{Path, PathBuf};

use self::memory::GroupMemory;
use self::shard::Shard;
use super::image_file::decode_bytes;
use super::{Dataset, Split};
use crate::augment::Sample;
use crate::{Error, Result};

/// Bytes of images kept in memory.
const MEMORY: u64 = 1 << 30;

/// Images and labels of parquet files; a file of the cut is called shard.
#[derive(Debug)]
pub struct ParquetDataset {
    shards: Vec<Shard>,
    groups: Vec<Group>,
    rows: usize,
    labels: Vec<u32>,
    classes: Vec<String>,
    class_count: usize,
    memory: GroupMemory,
}

/// A row group.
#[derive(Debug)]
struct Group {
    shard: usize,
    /// Its place in the shard.
    place: usize,
    /// The index of its first image.
    first: usize,
    /// Bytes of its images.
    bytes: u64,
}

impl ParquetDataset {
    /// Opens a split of a parquet file or of a folder of them.
    ///
    /// A path with a name of a split in it (as a word, [`Split::names`]) is of that split; files without such a word
    /// are the train split where no file is named so.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if there are no such files, no images in them, or several data sets beside one another;
    /// [`Error::Io`] if they cannot be read.
    pub fn open(root: &Path, split: Split) -> Result<Self> {
        if root.is_file() {
            let name = root.file_name().unwrap_or_default().to_string_lossy();
            split::select(&[name.into_owned()], "", split)
                .map_err(|refusal| refusal.at(root, split))?;
            return Self::of_files(&[root.to_owned()], &[]);
        }
        let files = split::files(root)?;
        let select = |split| split::select(&files, "", split);
        let names = select(split).map_err(|refusal| refusal.at(root, split))?;
        let paths = |names: Vec<String>| names.iter().map(|name| root.join(name)).collect();
        let files: Vec<PathBuf> = paths(names);
        let others = Split::ALL.into_iter().filter(|other| *other != split);
        let others = others
            .filter_map(|other| select(other).ok())
            .flat_map(paths);
        Self::of_files(&files, &others.collect::<Vec<_>>())
    }

    /// Opens a split of a data set on the Hub, downloading its files unless they are there.
    ///
    /// # Errors
    ///
    /// [`Error::Hub`] if they cannot be had, else as [`Self::open`].
    #[cfg(feature = "hub")]
    pub fn open_hub(
        hub: &crate::hub::Hub,
        path: &crate::hub::HubPath,
        split: Split,
    ) -> Result<Self> {
        Self::of_files(&hub::fetch(hub, path, split)?, &[])
    }

    /// The rows of `files`; the labels of `others` count as classes too.
    fn of_files(files: &[PathBuf], others: &[PathBuf]) -> Result<Self> {
        let shards = files
            .iter()
            .map(|path| Shard::open(path))
            .collect::<Result<Vec<_>>>()?;
        let (mut groups, mut rows) = (vec![], 0);
        for (index, shard) in shards.iter().enumerate() {
            for (place, (count, bytes)) in shard.groups().into_iter().enumerate() {
                groups.push(Group {
                    shard: index,
                    place,
                    first: rows,
                    bytes,
                });
                rows += count;
            }
        }
        if rows == 0 {
            return Err(Error::format(
                files.first().cloned().unwrap_or_default(),
                "holds no rows",
                "download the file again, or name another",
            ));
        }
        let mut dataset = Self {
            classes: shards
                .first()
                .map_or_else(Vec::new, |shard| shard.classes().to_vec()),
            shards,
            groups,
            rows,
            labels: vec![],
            class_count: 0,
            memory: GroupMemory::new(MEMORY),
        };
        dataset.read_labels(others)?;
        Ok(dataset)
    }

    /// Reads the labels of all rows; none count if any is missing.
    fn read_labels(&mut self, others: &[PathBuf]) -> Result<()> {
        let mut labels = Vec::with_capacity(self.rows);
        for shard in &self.shards {
            labels.extend(shard.labels()?);
        }
        if labels.len() < self.rows {
            return Ok(());
        }
        // ImageNet's test split and others say "unknown" with -1.
        let known = labels.iter().map(|label| u32::try_from(*label).ok());
        let Some(known) = known.collect::<Option<Vec<u32>>>() else {
            let path = self.shards[0].path().display();
            tracing::warn!("{path}: some labels are negative; images are taken without labels");
            self.classes.clear();
            return Ok(());
        };
        let mut count = known.iter().max().map_or(0, |label| *label as usize + 1);
        if !self.classes.is_empty() {
            if count > self.classes.len() {
                return Err(Error::format(
                    self.shards[0].path(),
                    format!("label {} among {} classes", count - 1, self.classes.len()),
                    "download the data set again",
                ));
            }
            count = self.classes.len();
        } else {
            for path in others {
                let more = Shard::open(path)?.labels()?.into_iter().max().unwrap_or(-1);
                count = count.max(usize::try_from(more + 1).unwrap_or(0));
            }
        }
        (self.labels, self.class_count) = (known, count);
        Ok(())
    }

    /// The group of image `index`, and the row in it.
    fn place(&self, index: usize) -> Option<(usize, usize)> {
        if index >= self.rows {
            return None;
        }
        // Empty groups begin where the next one does.
        let group = self.groups.partition_point(|group| group.first <= index) - 1;
        Some((group, index - self.groups[group].first))
    }
}

impl Dataset for ParquetDataset {
    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn len(&self) -> usize {
        self.rows
    }

    fn read(&self, index: usize) -> Result<Sample> {
        let (key, row) = self.place(index).ok_or_else(|| {
            Error::shape(
                "image index",
                format!("below {}", self.rows),
                index,
                "take indices from a sampler over this data set",
            )
        })?;
        let Group {
            shard,
            place,
            bytes,
            ..
        } = self.groups[key];
        let shard = &self.shards[shard];
        let image = if self.memory.has_room_for(bytes) {
            let rows = self
                .memory
                .get(key, bytes, || shard.images(place, 0, usize::MAX))?;
            rows.get(row).cloned().flatten()
        } else {
            shard.images(place, row, 1)?.pop().flatten()
        };
        let name = PathBuf::from(self.name_of(index));
        match image {
            Some(image) => decode_bytes(image.data(), &name),
            None => Err(Error::format(
                name,
                "the row holds no image",
                "leave it out of the file",
            )),
        }
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied()
    }

    fn classes(&self) -> usize {
        self.class_count
    }

    fn name_of(&self, index: usize) -> String {
        let Some((key, row)) = self.place(index) else {
            return format!("#{index}");
        };
        let group = &self.groups[key];
        let first = self.groups.iter().find(|other| other.shard == group.shard);
        let row = row + group.first - first.map_or(0, |first| first.first);
        format!("{}#{row}", self.shards[group.shard].path().display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_groups_that_do_not_fit_into_memory_are_read_one_by_one() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet/data");
        for split in [Split::Train, Split::Test] {
            let dataset = ParquetDataset::open(&folder, split).unwrap();
            let frugal = ParquetDataset {
                memory: GroupMemory::new(0),
                ..ParquetDataset::open(&folder, split).unwrap()
            };
            for index in 0..dataset.len() {
                assert_eq!(frugal.read(index).unwrap(), dataset.read(index).unwrap());
            }
        }
    }
}
