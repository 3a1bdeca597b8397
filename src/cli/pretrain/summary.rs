//! `summary.json` and the table at the end of a run.

use std::collections::BTreeMap;
use std::path::Path;

use crate::RunConfig;
use candle_core::Device;
use mim_core::train::EpochRecord;
use mim_core::{Error, Result, files};
use serde_json::{Value, json};

use super::rows::Rows;
use super::stages;
use crate::cli::machine::machine;

/// What a finished run reports.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) rows: Rows,
    pub(super) images: usize,
    pub(super) seconds: f64,
    pub(super) notes: Vec<String>,
    /// Probes of the stages before the last one.
    pub(super) stages: Vec<Value>,
    images_per_s: f64,
    final_loss: Option<f64>,
    /// Means of loss terms and metrics over the last epoch.
    final_terms: BTreeMap<String, f64>,
}

impl Summary {
    /// A summary of the epochs in `log`, without the rest.
    pub(super) fn new(log: &[EpochRecord]) -> Self {
        let speeds = log.iter().map(|record| record.images_per_s);
        Self {
            rows: Rows::default(),
            images: 0,
            seconds: 0.,
            notes: Vec::new(),
            stages: Vec::new(),
            images_per_s: speeds.sum::<f64>() / log.len().max(1) as f64,
            final_loss: log.last().map(|record| record.train_loss),
            final_terms: log
                .last()
                .map(|record| record.terms.clone())
                .unwrap_or_default(),
        }
    }

    pub(super) fn write(&self, config: &RunConfig, device: &Device, path: &Path) -> Result<()> {
        let mut summary = json!({
            "method": config.method,
            "data": config.data.source,
            "seed": config.train.seed,
            "epochs": config.train.epochs,
            "images": self.images,
            "images_per_s": self.images_per_s,
            "final_loss": self.final_loss,
            "final_terms": self.final_terms,
            "seconds": self.seconds,
            "notes": self.notes,
            "problems": self.rows.problems,
            "machine": machine(device),
        });
        version(&mut summary);
        if !self.stages.is_empty() {
            summary["stages"] = json!(self.stages);
        }
        if let (Some(all), Value::Object(rows)) =
            (summary.as_object_mut(), self.rows.to_json(&config.eval))
        {
            all.extend(rows);
        }
        let text = serde_json::to_string_pretty(&summary)
            .map_err(|error| Error::format(path, error.to_string(), "report this as a bug"))?;
        files::write(path, &text)
    }

    pub(super) fn print(&self) {
        let loss = self
            .final_loss
            .map_or("no epoch logged".to_owned(), |loss| {
                format!("final loss {loss:.4}")
            });
        println!(
            "{loss}, {:.0} images/s, {:.0} s in all",
            self.images_per_s, self.seconds
        );
        if self.final_terms.len() > 1 {
            let terms = self.final_terms.iter();
            let terms: Vec<_> = terms
                .map(|(name, value)| format!("{name} {value:.4}"))
                .collect();
            println!("{}", terms.join(", "));
        }
        for note in &self.notes {
            println!("{note}");
        }
        for stage in &self.stages {
            println!("{}", stages::line(stage));
        }
        for problem in &self.rows.problems {
            eprintln!("warning: {problem}");
        }
        let Some(split) = self.rows.split else { return };
        self.rows.print(split);
    }
}

/// Adds the version of the program, and its commit if it was known to the build (`MIM_GIT_COMMIT`).
pub(crate) fn version(all: &mut Value) {
    all["version"] = json!(env!("CARGO_PKG_VERSION"));
    if let Some(commit) = option_env!("MIM_GIT_COMMIT") {
        all["commit"] = json!(commit);
    }
}
