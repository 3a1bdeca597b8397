//! The table at the end of a run.

use mim_core::Result;
use mim_eval::{EvalConfig, Outcome, Summary};
use serde_json::{Value, json};

use crate::run_config::HeldOut;

/// Accuracy with few labels, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LowShot {
    /// The mean over the draws.
    pub(super) top1: f64,
    /// The standard deviation over the draws.
    pub(super) deviation: f64,
    /// Number of labels in a draw.
    pub(super) images: f64,
}

impl LowShot {
    /// The result of the protocol.
    pub(super) fn of(outcome: &Outcome) -> Self {
        let figure = |name: &str| {
            let found = outcome.figures.iter().find(|(known, _)| known == name);
            found.map_or(f64::NAN, |(_, value)| *value)
        };
        Self {
            top1: figure("top1"),
            deviation: figure("top1_deviation"),
            images: figure("images"),
        }
    }
}

/// The results of one set of features; failures are in `problems`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    /// The encoder, or what else the features come from.
    pub(super) name: &'static str,
    /// Prefix of its keys in `summary.json`.
    pub(super) key: &'static str,
    pub(crate) linear: Option<Summary>,
    pub(crate) knn: Option<Summary>,
    /// The result of the network that was trained with labels.
    pub(crate) finetuned: Option<Summary>,
    /// The result with few labels.
    pub(super) lowshot: Option<LowShot>,
    /// Images whose features were compared: training and held-out ones.
    pub(crate) images: Option<[usize; 2]>,
}

impl Row {
    /// The available figures, by protocol.
    fn figures(&self) -> impl Iterator<Item = (&'static str, &Summary)> {
        let all = [
            ("linear", &self.linear),
            ("knn", &self.knn),
            ("finetuned", &self.finetuned),
        ];
        let some = all.into_iter();
        some.filter_map(|(name, figures)| Some((name, figures.as_ref()?)))
    }
}

/// The probes of a run, and what failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    pub(super) rows: Vec<Row>,
    /// The encoder that was probed.
    pub(super) encoder: Option<String>,
    /// The split that it was probed on.
    pub(super) split: Option<HeldOut>,
    pub(super) problems: Vec<String>,
}

impl Rows {
    pub(super) fn keep<T>(&mut self, what: &str, done: Result<T>) -> Option<T> {
        done.map_err(|error| self.problems.push(format!("{what}: {error}")))
            .ok()
    }

    /// Prints them as a table: top-1 and its 95 % interval.
    pub(super) fn print(&self, split: HeldOut) {
        let columns = [
            ("linear", "linear"),
            ("knn", "k-NN"),
            ("finetuned", "fine-tuned"),
        ];
        let has = |key: &str| {
            self.rows
                .iter()
                .any(|row| row.figures().any(|(name, _)| name == key))
        };
        let columns: Vec<_> = columns.into_iter().filter(|(key, _)| has(key)).collect();
        let few = self.rows.iter().find_map(|row| row.lowshot);
        let headings: String = columns
            .iter()
            .map(|(_, heading)| format!(" {heading:>20}"))
            .collect();
        let labels = few.map_or(String::new(), |few| {
            format!(" {:>20}", format!("{} labels", few.images))
        });
        println!("{:24}{headings}{labels}   ({split})", "top-1 in percent");
        for row in &self.rows {
            let cell = |key: &str| {
                let found = row.figures().find(|(name, _)| *name == key);
                found.map_or("-".to_owned(), |(_, figures)| {
                    let [low, high] = figures.interval;
                    format!("{:.1} [{low:.1}, {high:.1}]", figures.top1)
                })
            };
            let cells: String = columns
                .iter()
                .map(|(key, _)| format!(" {:>20}", cell(key)))
                .collect();
            let labels = row.lowshot.map_or(String::new(), |few| {
                format!(" {:>20}", format!("{:.1} ± {:.1}", few.top1, few.deviation))
            });
            println!("{:24}{cells}{labels}", row.name);
        }
    }

    /// Their part of `summary.json`.
    pub(super) fn to_json(&self, config: &EvalConfig) -> Value {
        let mut all = json!({
            "encoder": self.encoder,
            "split": self.split.map(|split| split.to_string()),
        });
        put_settings(&mut all, config);
        for row in &self.rows {
            for (name, figures) in row.figures() {
                put_figures(&mut all, &format!("{}{name}", row.key), figures);
            }
            if let Some(few) = row.lowshot {
                let key = format!("{}lowshot", row.key);
                all[format!("{key}_top1")] = json!(few.top1);
                all[format!("{key}_top1_deviation")] = json!(few.deviation);
                all[format!("{key}_images")] = json!(few.images);
            }
            if let Some([train, held_out]) = row.images {
                all[format!("{}probed_images", row.key)] =
                    json!({ "train": train, "held_out": held_out });
            }
        }
        all
    }
}

/// Adds the figures of a protocol.
pub(crate) fn put_figures(all: &mut Value, name: &str, figures: &Summary) {
    all[format!("{name}_top1")] = json!(figures.top1);
    all[format!("{name}_top5")] = json!(figures.top5);
    all[format!("{name}_mean_per_class")] = json!(figures.mean_per_class);
    all[format!("{name}_top1_interval")] = json!(figures.interval);
}

/// Adds the settings of probes.
pub(crate) fn put_settings(all: &mut Value, config: &EvalConfig) {
    all["pooling"] = json!(config.pooling);
    all["k"] = json!(config.knn.k);
    all["temperature"] = json!(config.knn.temperature);
    all["c"] = json!(config.linear.c);
    all["max_train"] = json!(config.linear.max_train);
}
