//! `state.json`: the state of training, and the checksums of the files next to it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, files};

/// The version of the layout that this build reads and writes.
const FORMAT: u32 = 1;
/// The file that makes a folder a checkpoint.
pub(super) const STATE: &str = "state.json";
/// The text before the checksum of `state.json` itself, which is its last entry.
const SEAL: &str = ",\n  \"crc32\": \"";

/// The state of training, in `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Version of the layout.
    pub format: u32,
    /// The method's name.
    pub method: String,
    /// Optimizer steps done.
    pub step: usize,
    /// The epoch of the next step.
    pub epoch: usize,
    /// The next step within that epoch.
    pub iter: usize,
    /// The run's seed.
    pub seed: u64,
    /// Number of processes.
    pub world: usize,
    /// Number of training images; checkpoints of older versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Sums over the steps done in the current epoch, by name.
    pub sums: BTreeMap<String, f64>,
    /// The complete settings of the run; null if its program saved none.
    pub config: serde_json::Value,
}

impl TrainState {
    /// A state of the current layout.
    pub(in crate::train) fn new(method: &str, seed: u64, images: usize) -> Self {
        Self {
            format: FORMAT,
            method: method.to_owned(),
            step: 0,
            epoch: 0,
            iter: 0,
            seed,
            world: 1,
            images: Some(images),
            sums: BTreeMap::new(),
            config: serde_json::Value::Null,
        }
    }
}

/// CRC-32 of each file of a checkpoint, by name.
pub(super) type Checksums = BTreeMap<String, String>;

/// The content of `state.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    #[serde(flatten)]
    pub(super) state: TrainState,
    /// `None` in checkpoints of older versions.
    #[serde(default)]
    pub(super) files: Option<Checksums>,
}

impl Saved {
    /// The text of `state.json`, with its own checksum at the end.
    pub(super) fn to_text(&self, path: &Path) -> Result<String> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::format(path, error.to_string(), "report this as a bug"))?;
        Ok(sealed(text.strip_suffix("\n}").unwrap_or(&text)))
    }

    /// Reads the `state.json` of a checkpoint folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(STATE);
        let bytes = files::read(&file)?;
        let damaged = |what: String| Error::format(&file, what, OTHER);
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text".to_owned()))?;
        let body = text.rsplit_once(SEAL).map(|(body, _)| body);
        if body.is_some_and(|body| sealed(body) != text) {
            return Err(damaged("it does not have its recorded checksum".to_owned()));
        }
        let saved: Self =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if saved.files.is_some() && body.is_none() {
            return Err(damaged("its own checksum is missing".to_owned()));
        }
        if saved.state.format != FORMAT {
            let what = format!("layout {} of {}", saved.state.format, file.display());
            let why = format!("this program reads layout {FORMAT}");
            let fix = "use the version of mim that wrote it";
            return Err(Error::unsupported(what, why, fix));
        }
        Ok(saved)
    }
}

/// What to do about a damaged checkpoint.
pub(super) const OTHER: &str = "resume from another checkpoint of the run, or copy this one again";

fn sealed(body: &str) -> String {
    format!("{body}{SEAL}{}\"\n}}", checksum(body.as_bytes()))
}

/// CRC-32 (as in zip, gzip and PNG files), in hexadecimal.
pub(super) fn checksum(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STATE);
        let saved = Saved {
            state: TrainState::new("mae", 3, 20),
            files: Some(Checksums::from([("a".to_owned(), checksum(b"123456789"))])),
        };
        assert_eq!(saved.files.as_ref().unwrap()["a"], "cbf43926");
        let text = saved.to_text(&path).unwrap();
        fs::write(&path, &text).unwrap();
        let read = Saved::read(dir.path()).unwrap();
        assert_eq!((read.state, read.files), (saved.state, saved.files));
        for bit in 0..8 * text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            assert!(Saved::read(dir.path()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_state_without_checksums_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = serde_json::to_string_pretty(&TrainState::new("mae", 3, 20)).unwrap();
        fs::write(dir.path().join(STATE), text).unwrap();
        assert!(Saved::read(dir.path()).unwrap().files.is_none());
    }
}
