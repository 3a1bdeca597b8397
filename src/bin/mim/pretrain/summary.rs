//! `summary.json` and the table at the end of a run.

use std::path::Path;

use mim_core::train::EpochRecord;
use mim_core::{Error, Result};
use serde_json::json;

use super::probe::Rows;
use crate::folder;

/// What a finished run reports.
#[derive(Debug)]
pub(super) struct Summary {
    rows: Option<Rows>,
    images_per_s: f64,
    final_loss: f64,
    seconds: f64,
    notes: Vec<String>,
}

impl Summary {
    pub(super) fn new(
        log: &[EpochRecord],
        rows: Option<Rows>,
        seconds: f64,
        notes: Vec<String>,
    ) -> Self {
        let mean = |pick: fn(&EpochRecord) -> f64| {
            log.iter().map(pick).sum::<f64>() / log.len().max(1) as f64
        };
        let final_loss = log.last().map_or(f64::NAN, |record| record.train_loss);
        Self {
            rows,
            images_per_s: mean(|record| record.images_per_s),
            final_loss,
            seconds,
            notes,
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut summary = json!({
            "images_per_s": self.images_per_s,
            "final_loss": self.final_loss,
            "seconds": self.seconds,
            "notes": self.notes,
        });
        if let Some(rows) = &self.rows {
            for (prefix, row) in [
                ("", &rows.pretrained),
                ("random_", &rows.random),
                ("raw_", &rows.raw),
            ] {
                summary[format!("{prefix}linear_top1")] = json!(row.linear_top1);
                summary[format!("{prefix}knn_top1")] = json!(row.knn_top1);
            }
        }
        let text = serde_json::to_string_pretty(&summary)
            .map_err(|error| Error::format(path, error.to_string(), "report this as a bug"))?;
        folder::write(path, &text)
    }

    pub(super) fn print(&self) {
        println!(
            "final loss {:.4}, {:.0} images/s, {:.0} s in all",
            self.final_loss, self.images_per_s, self.seconds
        );
        for note in &self.notes {
            println!("{note}");
        }
        let Some(rows) = &self.rows else { return };
        println!("{:24} {:>8} {:>8}", "top-1 in percent", "linear", "k-NN");
        let names = ["pretrained encoder", "random encoder", "raw pixels"];
        for (name, row) in names
            .into_iter()
            .zip([&rows.pretrained, &rows.random, &rows.raw])
        {
            println!("{name:24} {:>8.1} {:>8.1}", row.linear_top1, row.knn_top1);
        }
    }
}
