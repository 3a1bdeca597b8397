//! One parquet file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::DataType;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use ::parquet::file::properties::ReaderProperties;
use ::parquet::file::reader::RowGroupReader;
use ::parquet::file::serialized_reader::SerializedRowGroupReader;

use super::columns::Columns;
use super::memory::Rows;
use crate::{Error, Result};

/// A file, its metadata read.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    metadata: ParquetMetaData,
    columns: Columns,
}

impl Shard {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let metadata = ParquetMetaDataReader::new()
            .parse_and_finish(&file)
            .map_err(|error| broken(path, &error))?;
        let columns = Columns::find(metadata.file_metadata())
            .map_err(|(what, fix)| Error::format(path, what, fix))?;
        Ok(Self {
            path: path.to_owned(),
            metadata,
            columns,
        })
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

    /// The label of each row, -1 where there is none; empty without a column of labels.
    pub(super) fn labels(&self) -> Result<Vec<i64>> {
        let Some(column) = self.columns.label else {
            return Ok(vec![]);
        };
        let mut labels = vec![];
        for group in 0..self.metadata.num_row_groups() {
            let (place, all) = ((group, column), (0, usize::MAX));
            let read = || match self.column(place)? {
                ColumnReader::Int32ColumnReader(reader) => {
                    let rows = self.rows(place, reader, all)?.into_iter();
                    Ok(rows.map(|row| row.map(i64::from)).collect())
                }
                ColumnReader::Int64ColumnReader(reader) => self.rows(place, reader, all),
                _ => Err(ParquetError::General(
                    "labels are no whole numbers".to_owned(),
                )),
            };
            let rows: Vec<Option<i64>> = read().map_err(|error| broken(&self.path, &error))?;
            labels.extend(rows.into_iter().map(|row| row.unwrap_or(-1)));
        }
        Ok(labels)
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
