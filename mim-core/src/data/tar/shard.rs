//! The samples of one tar file.

use std::io::{BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::Reading;
use super::super::folder::images;
use super::super::labels::LABEL_COLUMNS;
use super::super::passed_over::PassedOver;
use crate::{Error, Result, files};

/// Longest file of labels or notes that is read.
const LONGEST: u64 = 1 << 20;

/// A sample: an image, and what stands beside it under the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The name up to its first dot.
    pub(super) key: Box<str>,
    /// Where the bytes of the image are in the file.
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) label: Option<Box<str>>,
}

/// What is in a tar file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    pub(super) passed_over: PassedOver,
}

/// The files of a sample so far.
#[derive(Default)]
struct Sample {
    key: String,
    images: Vec<(String, u64, u64)>,
    label: Option<Box<str>>,
}

/// Lists the samples of a tar file. Files of one sample stand next to one another and have one name up to the first dot.
pub(super) fn list(path: &Path, reading: &Reading) -> Result<Contents> {
    let broken = |error: std::io::Error| {
        let what = format!("cannot be read as a tar file: {error}");
        Error::format(
            path,
            what,
            "download it again; a compressed one (.tar.gz) must be unpacked",
        )
    };
    let file = files::open(path)?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let images = images(reading.array_layout);
    let mut archive = tar::Archive::new(BufReader::new(file));
    let (mut contents, mut sample) = (Contents::default(), Sample::default());
    for entry in archive.entries_with_seek().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        if !kind.is_file() {
            if !kind.is_dir() {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                let what = "links and other entries that are no files";
                contents.passed_over.other(what, &path.join(name));
            }
            continue;
        }
        let (offset, len) = (entry.raw_file_position(), entry.size());
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if offset.saturating_add(len) > size {
            let what = format!("is cut short within {name}");
            return Err(Error::format(path, what, "download it again"));
        }
        let (key, ending) = parts(&name);
        let base = key.rsplit('/').next().unwrap_or_default();
        if base.is_empty() || base.starts_with("._") {
            // Names that start with a dot, and what macOS adds.
            continue;
        }
        if key != sample.key {
            contents.add(std::mem::take(&mut sample), reading, path)?;
            sample.key = key.to_owned();
        }
        let kind = ending.rsplit('.').next().unwrap_or_default();
        if images.has_ending(kind) {
            sample.images.push((ending, offset, len));
        } else if holds_label(&ending, reading) && len <= LONGEST {
            let mut text = String::new();
            if entry.read_to_string(&mut text).is_err() {
                let what = format!("{name} is no text");
                return Err(Error::format(path, what, "write labels as text"));
            }
            // A file of the label alone goes before a value in a file of notes.
            let found = label(&ending, &text, reading);
            sample.label = match ending.as_str() {
                "json" => sample.label.or(found),
                _ => found.or(sample.label),
            };
        } else {
            contents.passed_over.file(&path.join(&name));
        }
    }
    contents.add(sample, reading, path)?;
    Ok(contents)
}

/// A name up to the first dot of its last part, and what follows, in lower case.
fn parts(name: &str) -> (&str, String) {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[base..].find('.') {
        Some(dot) => (&name[..base + dot], name[base + dot + 1..].to_lowercase()),
        None => (name, String::new()),
    }
}

/// Whether a file beside an image holds its label.
fn holds_label(ending: &str, reading: &Reading) -> bool {
    let named = reading.label_column.as_deref();
    ending == "json" || ending == named.unwrap_or("cls")
}

/// The label in a file beside an image: its text, or a value of a JSON object.
fn label(ending: &str, text: &str, reading: &Reading) -> Option<Box<str>> {
    let named = reading.label_column.as_deref();
    if ending == named.unwrap_or("cls") {
        let text = text.trim();
        return (!text.is_empty()).then(|| text.into());
    }
    let object: Value = serde_json::from_str(text).ok()?;
    let value = match named {
        Some(name) => object.get(name)?,
        None => LABEL_COLUMNS.iter().find_map(|name| object.get(*name))?,
    };
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        _ => None,
    }
}

impl Contents {
    fn add(&mut self, sample: Sample, reading: &Reading, path: &Path) -> Result<()> {
        let chosen = match &reading.image_column {
            Some(column) => {
                let column = column.to_lowercase();
                sample
                    .images
                    .iter()
                    .position(|(ending, ..)| *ending == column)
            }
            None => (!sample.images.is_empty()).then_some(0),
        };
        for (place, (ending, ..)) in sample.images.iter().enumerate() {
            if Some(place) != chosen {
                let what = format!("further images of samples, .{ending}");
                self.passed_over.other(&what, &path.join(&sample.key));
            }
        }
        let Some(chosen) = chosen else {
            if !sample.key.is_empty() {
                let what = "samples without an image";
                self.passed_over.other(what, &path.join(&sample.key));
            }
            return Ok(());
        };
        let (_, offset, len) = sample.images[chosen];
        self.entries.push(Entry {
            key: sample.key.into(),
            offset,
            len,
            label: sample.label,
        });
        Ok(())
    }
}
