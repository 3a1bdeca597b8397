//! Rows on their way to a file. An interrupted command leaves them, and the next one continues.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mim_core::{Error, Result, files};
use mim_eval::FeatureRows;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// A file that becomes the output when all rows are in it, and the record beside it.
///
/// The record is written after each batch, and holds a checksum of the rows so far. So it does not matter which of the
/// two files a crash left behind the other.
#[derive(Debug)]
pub(super) struct Part {
    output: PathBuf,
    path: PathBuf,
    file: File,
    /// Bytes before the first row.
    start: usize,
    record: Record,
    sum: crc32fast::Hasher,
}

/// How far a command has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What the rows depend on, by name.
    of: Map<String, Value>,
    /// Batches that are done.
    pub(super) batches: usize,
    /// Rows of these batches, and the sizes of a row.
    pub(super) rows: usize,
    dims: Vec<usize>,
    /// Images of these batches that have no row.
    pub(super) left_out: Vec<usize>,
    /// CRC-32 of the rows.
    crc32: u32,
}

/// `path` with `end` at its end.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

impl Part {
    /// Opens what an interrupted command left next to `output`, or starts from nothing if its rows cannot be used. The
    /// line says which, if there was something.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if another process writes the same output, or the rows are those of another command;
    /// [`Error::Io`] if a file cannot be read or written.
    pub(super) fn open(
        output: &Path,
        of: Map<String, Value>,
        start: usize,
    ) -> Result<(Self, Option<String>)> {
        let path = beside(output, ".part");
        let found = path.exists();
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(Error::io("create", &path))?;
        lock(&file, &path)?;
        let mut part = Self {
            output: output.to_owned(),
            path,
            file,
            start,
            record: Record {
                of,
                ..Record::default()
            },
            sum: crc32fast::Hasher::new(),
        };
        let said = match found {
            true => Some(part.go_on()?),
            false => None,
        };
        let end = (start + part.record.bytes()) as u64;
        let sized = part.file.set_len(end);
        sized
            .and_then(|()| part.file.seek(SeekFrom::Start(end)))
            .map_err(Error::io("write", &part.path))?;
        Ok((part, said))
    }

    /// Takes over the record of the interrupted command if its rows are intact. Says what was done.
    fn go_on(&mut self) -> Result<String> {
        let (part, record) = (self.path.display(), beside(&self.path, ".json"));
        let read = fs::read(&record).map(|bytes| serde_json::from_slice::<Record>(&bytes));
        let Ok(Ok(old)) = read else {
            return Ok(format!(
                "no complete record lies next to {part}, so all rows are computed again"
            ));
        };
        let other = differences(&old.of, &self.record.of);
        if !other.is_empty() {
            let other = other.join(", ");
            let what = format!("an interrupted command with other {other} left these rows");
            let fix = "repeat that command, remove this file, or give another --output";
            return Err(Error::format(&self.path, what, fix));
        }
        match self.sum_of(old.bytes())? {
            Some(sum) if sum.clone().finalize() == old.crc32 => self.sum = sum,
            _ => {
                return Ok(format!(
                    "the rows in {part} are damaged, so all of them are computed again"
                ));
            }
        }
        self.record = old;
        let (rows, left_out) = (self.record.rows, self.record.left_out.len());
        let images = rows + left_out;
        Ok(format!("continuing after {images} images, from {part}"))
    }

    /// The checksum of so many bytes of rows; none if the file is shorter.
    fn sum_of(&self, bytes: usize) -> Result<Option<crc32fast::Hasher>> {
        let (mut sum, mut piece, mut found) = (crc32fast::Hasher::new(), vec![0; PIECE], 0);
        let mut file = &self.file;
        let sought = file.seek(SeekFrom::Start(self.start as u64));
        sought.map_err(Error::io("read", &self.path))?;
        let mut rows = file.take(bytes as u64);
        loop {
            match rows
                .read(&mut piece)
                .map_err(Error::io("read", &self.path))?
            {
                0 => return Ok((found == bytes).then_some(sum)),
                count => sum.update(&piece[..count]),
            }
            found = bytes - usize::try_from(rows.limit()).unwrap_or(bytes);
        }
    }

    /// How far it has come.
    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Adds the rows of the next batch.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if they cannot be written, [`Error::Shape`] if their sizes differ from those of earlier rows.
    pub(super) fn add(&mut self, rows: &FeatureRows) -> Result<()> {
        let record = &mut self.record;
        if record.dims.is_empty() {
            record.dims.clone_from(&rows.dims);
        } else if !rows.dims.is_empty() && rows.dims != record.dims {
            let fix = "use views of equal size";
            return Err(Error::shape("features", &record.dims, &rows.dims, fix));
        }
        let bytes: Vec<u8> = rows
            .values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let written = self.file.write_all(&bytes);
        written.map_err(Error::io("write", &self.path))?;
        self.sum.update(&bytes);
        let width: usize = record.dims.iter().product();
        record.rows += rows.values.len() / width.max(1);
        record.batches += 1;
        record.left_out.extend(&rows.left_out);
        record.crc32 = self.sum.clone().finalize();
        let text = serde_json::to_vec(record).map_err(|error| {
            let what = format!("cannot be written: {error}");
            Error::format(&self.path, what, "report this as a bug")
        })?;
        // Not synced: the checksum finds a record that does not fit the rows.
        files::write_unsynced(&beside(&self.path, ".json"), text)
    }

    /// The sizes of all rows together: their number comes first.
    pub(super) fn dims(&self) -> Vec<usize> {
        [&[self.record.rows], &self.record.dims[..]].concat()
    }

    /// Writes the header before the rows, and gives the file its final name.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written.
    pub(super) fn finish(mut self, head: &[u8]) -> Result<()> {
        let written = self
            .file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(head));
        written.map_err(Error::io("write", &self.path))?;
        files::rename(&self.path, &self.output)?;
        files::remove(&beside(&self.path, ".json"))
    }
}

impl Record {
    /// Bytes of its rows.
    fn bytes(&self) -> usize {
        4 * self.rows * self.dims.iter().product::<usize>()
    }
}

/// Keeps other processes from the same output. A file system without locks goes without.
fn lock(file: &File, path: &Path) -> Result<()> {
    let taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    // Whoever had the lock may have given the file its final name.
    if taken || !path.exists() {
        let fix = "wait until it ends, or use another --output";
        return Err(Error::format(path, "another process writes this file", fix));
    }
    Ok(())
}

/// Names of the entries that differ.
fn differences<'a>(old: &'a Map<String, Value>, new: &'a Map<String, Value>) -> Vec<&'a str> {
    let names = new
        .iter()
        .filter(|(name, value)| old.get(*name) != Some(value));
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    names
        .map(|(name, _)| name)
        .chain(gone)
        .map(String::as_str)
        .collect()
}
