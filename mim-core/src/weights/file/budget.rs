//! Memory limit for reading a file.

use std::path::Path;

use super::elements::Elements;
use crate::{Error, Result};

/// Bytes of values allowed per byte of the file: 8 if small integers are widened, doubled for tensors with shared
/// storage.
const TIMES: u64 = 16;
/// Bytes allowed for any file: zeros compress well.
const FREE: u64 = 64 << 20;

/// The remaining memory that a file may use. Many tensors can name one storage, many entries of an archive
/// one place, and compressed zeros are short.
#[derive(Debug)]
pub(super) struct Budget {
    values: u64,
    entries: u64,
}

impl Budget {
    /// The budget of the file at `path`.
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

    /// Reserves the memory of `count` values.
    ///
    /// # Errors
    ///
    /// Describes which limit they exceed.
    pub(super) fn values(&mut self, count: usize, elements: Elements) -> Result<(), String> {
        let bytes = (count as u64).checked_mul(elements.loaded_width() as u64);
        let left = bytes.and_then(|bytes| self.values.checked_sub(bytes));
        self.values = left.ok_or_else(|| {
            format!(
                "its values and the earlier ones take more than {TIMES} times the size of the file"
            )
        })?;
        Ok(())
    }

    /// Reserves the bytes of an uncompressed entry.
    ///
    /// # Errors
    ///
    /// If all entries together are larger than the file.
    pub(super) fn entry(&mut self, bytes: u64) -> Result<(), String> {
        let left = self.entries.checked_sub(bytes);
        self.entries = left.ok_or("its entries overlap: together they are larger than the file")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_use_a_multiple_of_its_size() {
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
