//! How much memory a file may ask for.

use std::path::Path;

use super::elements::Elements;
use crate::{Error, Result};

/// Bytes of values for each byte of the file: eight where small integers are widened, twice that where tensors share.
const TIMES: u64 = 16;
/// Bytes that any file may ask for: zeros compress well.
const FREE: u64 = 64 << 20;

/// What is left of the memory that a file may ask for: many tensors can name one storage, many entries of an archive
/// one place, and compressed zeros are short.
#[derive(Debug)]
pub(super) struct Budget {
    values: u64,
    entries: u64,
}

impl Budget {
    /// That of the file at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if its length cannot be read.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let length = std::fs::metadata(path)
            .map_err(Error::io("read", path))?
            .len();
        Ok(Self::of_length(length))
    }

    /// That of `length` bytes.
    pub(super) fn of_length(length: u64) -> Self {
        Self {
            values: length.saturating_mul(TIMES).saturating_add(FREE),
            entries: length,
        }
    }

    /// Takes the memory of `count` values.
    ///
    /// # Errors
    ///
    /// What it would exceed.
    pub(super) fn values(&mut self, count: usize, elements: Elements) -> Result<(), String> {
        let bytes = (count as u64).checked_mul(elements.loaded_width() as u64);
        let left = bytes.and_then(|bytes| self.values.checked_sub(bytes));
        self.values = left.ok_or_else(|| {
            format!("its values and those before take more than {TIMES} times the file's size")
        })?;
        Ok(())
    }

    /// Takes the bytes of an entry that is stored as it is.
    ///
    /// # Errors
    ///
    /// If all entries together are larger than the file.
    pub(super) fn entry(&mut self, bytes: u64) -> Result<(), String> {
        let left = self.entries.checked_sub(bytes);
        self.entries = left.ok_or("its entries overlap: they have more bytes than the file")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_ask_for_some_times_its_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 100]).unwrap();
        let mut budget = Budget::of(file.path()).unwrap();
        assert_eq!(budget.entry(60), Ok(()));
        assert!(budget.entry(41).unwrap_err().contains("overlap"));
        let free = 64 << 20;
        // Small integers are read as i64.
        assert_eq!(budget.values(free / 8, Elements::I8), Ok(()));
        assert_eq!(budget.values(400, Elements::F32), Ok(()));
        assert!(budget.values(1, Elements::Bool).is_err());
        assert!(budget.values(usize::MAX, Elements::F64).is_err());
    }
}
