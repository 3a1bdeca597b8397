//! One parquet file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use ::parquet::file::properties::ReaderProperties;
use ::parquet::file::reader::RowGroupReader;
use ::parquet::file::serialized_reader::SerializedRowGroupReader;

use super::super::Reading;
use super::columns::Columns;
use super::memory::Rows;
use crate::{Error, Result, files};

/// A file, its metadata read.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    metadata: ParquetMetaData,
    columns: Columns,
    reading: Reading,
}

/// The labels of all rows.
#[derive(Debug)]
pub(super) enum Labels {
    /// There is no column of labels.
    None,
    /// Whole numbers, -1 where there is none.
    Numbers(Vec<i64>),
    /// Texts.
    Texts(Vec<Option<String>>),
}

impl Shard {
    pub(super) fn open(path: &Path, reading: &Reading) -> Result<Self> {
        let file = files::open(path)?;
        let metadata = ParquetMetaDataReader::new()
            .parse_and_finish(&file)
            .map_err(|error| broken(path, &error))?;
        let columns = Columns::find(path, metadata.file_metadata(), reading)?;
        Ok(Self {
            path: path.to_owned(),
            metadata,
            columns,
            reading: reading.clone(),
        })
    }

    /// Another file of the same data set.
    pub(super) fn like(&self, path: &Path) -> Result<Self> {
        Self::open(path, &self.reading)
    }

    /// What was chosen among its columns, a line each.
    pub(super) fn notes(&self) -> &[String] {
        &self.columns.notes
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the classes, if the file says them.
    pub(super) fn classes(&self) -> &[String] {
        &self.columns.classes
    }

    /// Rows and bytes of images of each group.
    pub(super) fn groups(&self) -> Vec<(usize, u64)> {
        let groups = self.metadata.row_groups().iter();
        groups
            .map(|group| {
                let bytes = group.column(self.columns.image).uncompressed_size();
                (
                    usize::try_from(group.num_rows()).unwrap_or(0),
                    u64::try_from(bytes).unwrap_or(0),
                )
            })
            .collect()
    }

    /// Up to `count` images of a group, after `skip` others.
    pub(super) fn images(&self, group: usize, skip: usize, count: usize) -> Result<Rows> {
        let place = (group, self.columns.image);
        let read = || match self.column(place)? {
            ColumnReader::ByteArrayColumnReader(reader) => self.rows(place, reader, (skip, count)),
            _ => Err(ParquetError::General("images are no bytes".to_owned())),
        };
        read().map_err(|error| broken(&self.path, &error))
    }

    /// The label of each row.
    pub(super) fn labels(&self) -> Result<Labels> {
        let Some(column) = self.columns.label else {
            return Ok(Labels::None);
        };
        let (mut numbers, mut texts, mut is_text) = (vec![], vec![], false);
        for group in 0..self.metadata.num_row_groups() {
            let (place, all) = ((group, column), (0, usize::MAX));
            let mut read = || {
                match self.column(place)? {
                    ColumnReader::Int32ColumnReader(reader) => {
                        let rows = self.rows(place, reader, all)?.into_iter();
                        numbers.extend(rows.map(|row| row.map_or(-1, i64::from)));
                    }
                    ColumnReader::Int64ColumnReader(reader) => {
                        let rows = self.rows(place, reader, all)?.into_iter();
                        numbers.extend(rows.map(|row| row.unwrap_or(-1)));
                    }
                    ColumnReader::BoolColumnReader(reader) => {
                        is_text = true;
                        let rows = self.rows(place, reader, all)?.into_iter();
                        texts.extend(rows.map(|row| row.map(|value| value.to_string())));
                    }
                    ColumnReader::ByteArrayColumnReader(reader) => {
                        is_text = true;
                        for row in self.rows(place, reader, all)? {
                            let text = row.as_ref().map(ByteArray::as_utf8).transpose()?;
                            texts.push(text.map(str::to_owned));
                        }
                    }
                    _ => {
                        return Err(ParquetError::General(
                            "labels are of another type".to_owned(),
                        ));
                    }
                }
                Ok(())
            };
            read().map_err(|error| broken(&self.path, &error))?;
        }
        Ok(match is_text {
            true => Labels::Texts(texts),
            false => Labels::Numbers(numbers),
        })
    }

    /// The error of a row without an image: perhaps it has a path of one.
    pub(super) fn no_image(&self, group: usize, row: usize, name: &Path) -> Error {
        let path = self.columns.path.and_then(|column| {
            let place = (group, column);
            match self.column(place).ok()? {
                ColumnReader::ByteArrayColumnReader(reader) => {
                    let value = self.rows(place, reader, (row, 1)).ok()?.pop()??;
                    Some(value.as_utf8().ok()?.to_owned())
                }
                _ => None,
            }
        });
        match path {
            Some(path) => {
                let what = format!("the row holds no image, only the path {path}");
                Error::format(
                    name,
                    what,
                    "write the files with the images in them, as push_to_hub does",
                )
            }
            None => Error::format(name, "the row holds no image", "leave it out of the file"),
        }
    }

    fn column(&self, (group, column): (usize, usize)) -> Result<ColumnReader, ParquetError> {
        // A file of its own: readers of one file share its position, and threads would disturb each other.
        let file = Arc::new(File::open(&self.path)?);
        let group = self.metadata.row_group(group);
        let properties = Arc::new(ReaderProperties::builder().build());
        SerializedRowGroupReader::new(file, group, None, properties)?.get_column_reader(column)
    }

    /// Values of rows, none where a row is null.
    fn rows<T: DataType>(
        &self,
        (group, column): (usize, usize),
        mut reader: ColumnReaderImpl<T>,
        (skip, count): (usize, usize),
    ) -> Result<Vec<Option<T::T>>, ParquetError> {
        let rows = usize::try_from(self.metadata.row_group(group).num_rows())?;
        let count = count.min(rows.saturating_sub(skip));
        let (mut levels, mut values) = (vec![], vec![]);
        if skip > 0 {
            reader.skip_records(skip)?;
        }
        let (records, _, _) = reader.read_records(count, Some(&mut levels), None, &mut values)?;
        if records != count {
            let what = format!("{records} rows where its metadata promises {count}");
            return Err(ParquetError::General(what));
        }
        // Without nulls in the schema there are no levels; else a value is there where its level is the highest.
        let schema = self.metadata.file_metadata().schema_descr();
        let full = schema.column(column).max_def_level();
        if full == 0 {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        let row = |level: i16| if level == full { values.next() } else { None };
        Ok(levels.into_iter().map(row).collect())
    }
}

fn broken(path: &Path, error: &ParquetError) -> Error {
    let (what, fix) = match error {
        ParquetError::General(what) if what.contains("Disabled feature") => (
            format!("its compression is not supported: {error}"),
            "write it with snappy, zstd, gzip, lz4 or no compression",
        ),
        _ => (
            format!("cannot be read as parquet: {error}"),
            "download or write the file again",
        ),
    };
    Error::format(path, what, fix)
}
