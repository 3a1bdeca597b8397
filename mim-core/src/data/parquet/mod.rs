//! Images in parquet files, as data sets on the Hugging Face Hub are kept.
//!
//! A file has a column of encoded images (JPEG, PNG, WebP), plain or as a struct of `bytes` and `path`. It may have a
//! column of labels: whole numbers, text or booleans. Rows lie in groups that can only be read whole, so groups stay in
//! memory once read: all groups of a small data set, the most recently used ones of a large data set.

mod columns;
#[cfg(feature = "hub")]
mod hub;
mod labels;
mod memory;
mod shard;

use std::path::{Path, PathBuf};

use self::labels::{Classes, Others};
use self::memory::GroupMemory;
use self::shard::Shard;
use super::image_file::decode_bytes;
use super::reading::ReadImage;
use super::{Dataset, Reading, Shards, Split, out_of_range, shard_files};
use crate::augment::Sample;
use crate::{Error, Result};

/// Bytes of images kept in memory.
const MEMORY: u64 = 1 << 30;

/// Images and labels of parquet files, each of which is a shard.
#[derive(Debug)]
pub struct ParquetDataset {
    shards: Vec<Shard>,
    groups: Vec<Group>,
    rows: usize,
    classes: Classes,
    notes: Vec<String>,
    how: ReadImage,
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
    /// Opens a split of a parquet file or of a folder of parquet files.
    ///
    /// Files with the name of a split in their path (as a word, [`Split::names`]) belong to that split. If no path has
    /// the train split's name, files without such a word are the train split.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if there are no such files, if they hold no images, or if several data sets lie in the folder;
    /// [`Error::Io`] if they cannot be read.
    pub fn open(root: &Path, split: Split) -> Result<Self> {
        Self::open_with(root, split, &Reading::default())
    }

    /// Opens a split as [`Self::open`] does, which is read as `reading` says.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; [`Error::InvalidConfig`] if a column of `reading` does not exist.
    pub fn open_with(root: &Path, split: Split, reading: &Reading) -> Result<Self> {
        if root.is_file() {
            let name = root.file_name().unwrap_or_default().to_string_lossy();
            shard_files::select(&[name.into_owned()], ("", "parquet"), split)
                .map_err(|refusal| refusal.at(root, split))?;
            let others = Others {
                local: vec![],
                train: None,
            };
            return Self::of_files(&[root.to_owned()], &others, reading);
        }
        let files = shard_files::files(root, "parquet")?;
        let select = |split| shard_files::select(&files, ("", "parquet"), split);
        let names = select(split).map_err(|refusal| refusal.at(root, split))?;
        let paths = |names: Vec<String>| -> Vec<PathBuf> {
            names.iter().map(|name| root.join(name)).collect()
        };
        let files = paths(names);
        let others = Split::ALL.into_iter().filter(|other| *other != split);
        let others = others.filter_map(|other| select(other).ok());
        let train = || Ok(select(Split::Train).map_or(vec![], paths));
        let others = Others {
            local: others.flat_map(paths).collect(),
            train: (split != Split::Train).then_some(&train),
        };
        Self::of_files(&files, &others, reading)
    }

    /// Opens a split of a data set on the Hub and downloads the files that are not in the cache. If labels are text,
    /// the train split's files are downloaded too, for its classes.
    ///
    /// # Errors
    ///
    /// [`Error::Hub`] if they cannot be downloaded; otherwise as [`Self::open_with`].
    #[cfg(feature = "hub")]
    pub fn open_hub(
        hub: &crate::hub::Hub,
        path: &crate::hub::HubPath,
        split: Split,
    ) -> Result<Self> {
        Self::open_hub_with(hub, path, split, &Reading::default())
    }

    /// Opens a split as [`Self::open_hub`] does, which is read as `reading` says.
    ///
    /// # Errors
    ///
    /// As [`Self::open_hub`]; [`Error::InvalidConfig`] if a column of `reading` does not exist.
    #[cfg(feature = "hub")]
    pub fn open_hub_with(
        hub: &crate::hub::Hub,
        path: &crate::hub::HubPath,
        split: Split,
        reading: &Reading,
    ) -> Result<Self> {
        let train = || match hub::fetch(hub, path, Split::Train) {
            Err(Error::NoSplit { .. }) => Ok(vec![]),
            fetched => fetched,
        };
        let others = Others {
            local: vec![],
            train: (split != Split::Train).then_some(&train),
        };
        Self::of_files(&hub::fetch(hub, path, split)?, &others, reading)
    }

    fn of_files(files: &[PathBuf], others: &Others<'_>, reading: &Reading) -> Result<Self> {
        let shards = files
            .iter()
            .map(|path| Shard::open(path, reading))
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
        let mut classes = Classes::read(&shards, rows, others)?;
        let mut notes = shards[0].notes().to_vec();
        notes.append(&mut classes.notes);
        let name = shards[0].path().display();
        Ok(Self {
            notes: notes
                .into_iter()
                .map(|note| format!("{name}: {note}"))
                .collect(),
            how: reading.images(true),
            memory: GroupMemory::new(MEMORY),
            shards,
            groups,
            rows,
            classes,
        })
    }

    /// The row of image `index` among all rows; that behind the last if there is none.
    fn row(&self, index: usize) -> usize {
        match &self.classes.kept {
            Some(kept) => kept.get(index).copied().unwrap_or(self.rows),
            None => index,
        }
    }

    /// The group of image `index`, and the row in it.
    fn place(&self, index: usize) -> Option<(usize, usize)> {
        let index = self.row(index);
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
        &self.classes.names
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn len(&self) -> usize {
        let kept = self.classes.kept.as_ref();
        kept.map_or(self.rows, Vec::len)
    }

    fn read(&self, index: usize) -> Result<Sample> {
        let (key, row) = self
            .place(index)
            .ok_or_else(|| out_of_range(index, self.len()))?;
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
            Some(image) => decode_bytes(image.data(), &name, &self.how),
            None => Err(shard.no_image(place, row, &name)),
        }
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.classes.labels.get(index).copied()
    }

    fn classes(&self) -> usize {
        self.classes.count
    }

    fn shards(&self) -> Option<Shards> {
        let bytes: u64 = self.groups.iter().map(|group| group.bytes).sum();
        if bytes <= MEMORY {
            return None;
        }
        // Groups of half the memory at a time: the window reaches into one more on each side.
        let window = (self.rows as u64).saturating_mul(MEMORY / 2) / bytes;
        let shards = Shards {
            starts: self.groups.iter().map(|group| group.first).collect(),
            window: usize::try_from(window).unwrap_or(usize::MAX).max(1),
        };
        Some(match &self.classes.kept {
            Some(kept) => shards.of_some(kept),
            None => shards,
        })
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
