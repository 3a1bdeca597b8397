//! `log.jsonl`: one line per epoch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, files};

/// The results of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch, from 0.
    pub epoch: usize,
    /// Optimizer steps done since the start of the run.
    pub step: usize,
    /// Mean loss over the epoch.
    pub train_loss: f64,
    /// Mean of each loss term and metric over the epoch.
    pub terms: BTreeMap<String, f64>,
    /// Figures that an observer measured at its end ([`Observer::measure`](super::Observer::measure)).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: BTreeMap<String, f64>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Mean gradient norm before clipping.
    pub grad_norm: f64,
    /// Images per second, including the time spent waiting for data.
    pub images_per_s: f64,
}

/// The log of a run.
#[derive(Debug, Clone)]
pub struct EpochLog {
    path: PathBuf,
}

impl EpochLog {
    /// The log in a run folder.
    pub fn new(run: &Path) -> Self {
        Self {
            path: run.join("log.jsonl"),
        }
    }

    /// Appends and flushes one line.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written.
    pub fn append(&self, record: &EpochRecord) -> Result<()> {
        let line = serde_json::to_string(record).map_err(|error| {
            Error::format(&self.path, error.to_string(), "report this as a bug")
        })?;
        files::append(&self.path, format!("{line}\n").as_bytes())
    }

    /// All epochs so far; none without a log. An incomplete last line is ignored.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] for a damaged line before the last.
    pub fn read(&self) -> Result<Vec<EpochRecord>> {
        let bytes = files::read_if_there(&self.path)?.unwrap_or_default();
        let mut records = Vec::new();
        for line in bytes
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
        {
            records.push(serde_json::from_slice(line).map_err(|error| {
                Error::format(
                    &self.path,
                    format!("a line is damaged ({error})"),
                    "remove that line",
                )
            })?);
        }
        Ok(records)
    }

    /// Drops the lines from `epoch` on, which is about to be trained again, and an incomplete last line. The file is
    /// replaced as a whole, or left alone if there is nothing to drop.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be rewritten.
    pub fn rewind(&self, epoch: usize) -> Result<()> {
        let records = self.read()?;
        let kept = records.iter().filter(|record| record.epoch < epoch);
        let lines = kept.map(|record| serde_json::to_string(record).map(|line| line + "\n"));
        let lines = lines.collect::<std::result::Result<Vec<_>, _>>();
        let lines = lines.map_err(|error| {
            Error::format(&self.path, error.to_string(), "report this as a bug")
        })?;
        if lines.len() == records.len() && !self.is_cut()? {
            return Ok(());
        }
        files::write(&self.path, lines.concat())
    }

    /// Whether the last line is incomplete.
    fn is_cut(&self) -> Result<bool> {
        let bytes = files::read_if_there(&self.path)?.unwrap_or_default();
        Ok(bytes.last().is_some_and(|last| *last != b'\n'))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn record(epoch: usize) -> EpochRecord {
        let terms = BTreeMap::from([("pixel".to_owned(), 0.1)]);
        EpochRecord {
            epoch,
            step: epoch,
            train_loss: 0.1,
            terms,
            measured: BTreeMap::new(),
            lr: 1e-3,
            grad_norm: 1.,
            images_per_s: 2.,
        }
    }

    #[test]
    fn resuming_drops_what_will_be_trained_again() {
        let dir = tempfile::tempdir().unwrap();
        let log = EpochLog::new(dir.path());
        assert!(log.read().unwrap().is_empty());
        for epoch in 0..3 {
            log.append(&record(epoch)).unwrap();
        }
        fs::OpenOptions::new()
            .append(true)
            .open(&log.path)
            .unwrap()
            .write_all(b"{\"epoch\":3,")
            .unwrap();
        assert_eq!(log.read().unwrap().len(), 3);
        // Nothing but the cut line is dropped.
        log.rewind(3).unwrap();
        let text = fs::read_to_string(&log.path).unwrap();
        assert!(text.ends_with("}\n"), "{text}");
        log.rewind(2).unwrap();
        assert_eq!(log.read().unwrap(), [record(0), record(1)]);
    }
}
