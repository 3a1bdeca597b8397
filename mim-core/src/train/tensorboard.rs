//! TensorBoard event files: scalars only.
//!
//! A file is a sequence of TFRecords: length (u64), masked CRC-32C of it, payload, masked CRC-32C of
//! the payload. The payload is the protobuf message `Event`; only the handful of fields below are
//! written, so they are encoded here. (The crates for it are abandoned.)

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// Appends scalars to an event file of a run.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: fs::File,
}

impl EventWriter {
    /// Creates the event file for the part of a run that begins at `step`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be created.
    pub fn create(run: &Path, step: usize) -> Result<Self> {
        let path = run.join(format!("events.out.tfevents.{step:010}.mim"));
        let file = fs::File::create(&path).map_err(Error::io("create", &path))?;
        let mut writer = Self { path, file };
        let mut version = Vec::new();
        bytes_field(&mut version, 3, b"brain.Event:2");
        writer.event(0, &version)?;
        Ok(writer)
    }

    /// Writes `values` at `step` and flushes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written.
    pub fn scalars<'a>(
        &mut self,
        step: usize,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes());
            key(&mut entry, 2, FIXED32);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the format's simple_value is f32"
            )]
            entry.extend((value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry);
        }
        let mut payload = Vec::new();
        bytes_field(&mut payload, 5, &summary);
        self.event(step, &payload)
    }

    fn event(&mut self, step: usize, fields: &[u8]) -> Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0., |time| time.as_secs_f64());
        let mut event = Vec::new();
        key(&mut event, 1, FIXED64);
        event.extend(now.to_le_bytes());
        key(&mut event, 2, VARINT);
        varint(&mut event, step as u64);
        event.extend(fields);
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked_crc(&event).to_le_bytes());
        self.file
            .write_all(&record)
            .and_then(|()| self.file.flush())
            .map_err(Error::io("write", &self.path))
    }
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn key(out: &mut Vec<u8>, field: u64, kind: u64) {
    varint(out, field << 3 | kind);
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, BYTES);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// TFRecord's masked CRC-32C.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: event files hold a few kilobytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn records_hold_tag_step_and_value() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), 7).unwrap();
        writer.scalars(300, [("loss", 0.5)]).unwrap();
        let bytes = fs::read(&writer.path).unwrap();
        let first = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        assert_eq!(bytes[8..12], masked_crc(&bytes[..8]).to_le_bytes());
        let second = &bytes[12 + first + 4 + 12..bytes.len() - 4];
        assert_eq!(second[9..12], [0x10, 0xac, 0x02]); // field 2, step 300
        let value = [
            0x2a, 13, 0x0a, 11, 0x0a, 4, b'l', b'o', b's', b's', 0x15, 0, 0, 0, 0x3f,
        ];
        assert_eq!(second[12..], value);
    }
}
