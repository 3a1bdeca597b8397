//! Probes at the end of each stage of a run, kept in `stages.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use mim_core::train::{EpochRecord, Observer, StepReport};
use mim_core::{Error, Method, Result, files};
use serde_json::{Value, json};

use super::probe;
use super::watch::Watch;
use crate::RunConfig;
use crate::run_config::Images;

/// The file in a run folder.
const FILE: &str = "stages.json";

/// Watches a run, and probes the result of each stage before the next one replaces it.
pub(super) struct Stages<'a> {
    pub(super) watch: &'a mut Watch,
    pub(super) config: &'a RunConfig,
    pub(super) images: &'a Images,
    pub(super) device: &'a Device,
    pub(super) run: PathBuf,
    pub(super) evaluate: bool,
}

impl Stages<'_> {
    fn probe(&self, stage: usize, method: &dyn Method) -> Result<()> {
        eprintln!("stage {stage} of {} is done", method.stages().len());
        let rows = probe::trained(self.config, method, self.images, self.device);
        let mut row = rows.to_json(&self.config.eval);
        row["stage"] = json!(stage);
        row["problems"] = json!(rows.problems);
        // A run that is resumed from before the end of a stage repeats it.
        let earlier = |other: &Value| other["stage"].as_u64() < Some(stage as u64);
        let mut all: Vec<Value> = read(&self.run).into_iter().filter(earlier).collect();
        eprintln!("{}", line(&row));
        all.push(row);
        let path = self.run.join(FILE);
        let text = serde_json::to_string_pretty(&all)
            .map_err(|error| Error::format(&path, error.to_string(), "report this as a bug"))?;
        files::write(&path, &text)
    }
}

impl Observer for Stages<'_> {
    fn step(&mut self, report: &StepReport) {
        self.watch.step(report);
    }

    fn measure(&mut self, method: &dyn Method, epoch: usize) -> BTreeMap<String, f64> {
        self.watch.measure(method, epoch)
    }

    fn epoch(&mut self, record: &EpochRecord) {
        self.watch.epoch(record);
    }

    fn keeps(&self) -> bool {
        self.watch.keeps()
    }

    fn stage(&mut self, stage: usize, method: &dyn Method) {
        if !self.evaluate {
            return;
        }
        // As with everything after training, a failure here does not fail the run.
        if let Err(error) = self.probe(stage, method) {
            eprintln!("warning: no {FILE}: {error}");
        }
    }

    fn stop(&self) -> bool {
        self.watch.stop()
    }
}

/// The finished stages of a run, except the last one.
pub(super) fn read(run: &Path) -> Vec<Value> {
    let text = files::read(&run.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// A line about a stage.
pub(super) fn line(row: &Value) -> String {
    let top1 = |key: &str| match row[key].as_f64() {
        Some(value) => format!("{value:.1}"),
        None => "-".to_owned(),
    };
    format!(
        "stage {}: top-1 in percent, linear {}, k-NN {}",
        row["stage"],
        top1("linear_top1"),
        top1("knn_top1")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known() {
        let row = json!({ "stage": 0, "linear_top1": 71.26 });
        assert_eq!(line(&row), "stage 0: top-1 in percent, linear 71.3, k-NN -");
        assert!(read(Path::new("no such run")).is_empty());
    }
}
