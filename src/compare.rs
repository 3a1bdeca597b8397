//! A table of runs; runs that differ only in their seed share a row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mim_core::{Error, Result};
use serde_json::{Value, json};

use crate::report::data::RunData;

/// The setting in which runs of a row differ.
const SEED: &str = "train.seed";
/// Settings of the machine, which do not affect results.
const PLACES: [&str; 2] = ["data.workers", "data.prefetch"];
/// Results that come first, if present.
const FIRST: [&str; 11] = [
    "linear_top1",
    "knn_top1",
    "finetuned_top1",
    "lowshot_top1",
    "random_linear_top1",
    "random_knn_top1",
    "random_finetuned_top1",
    "random_lowshot_top1",
    "raw_linear_top1",
    "final_loss",
    "seconds",
];

/// The mean of a result over runs, and its standard deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation over runs (n - 1); `None` for a single run.
    pub deviation: Option<f64>,
}

/// Runs that differ only in their seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Names of their folders.
    pub runs: Vec<String>,
    /// The method.
    pub method: String,
    /// Settings that differ between rows.
    pub settings: BTreeMap<String, String>,
    /// Results by name.
    pub results: BTreeMap<String, Mean>,
}

/// A table of runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Its rows, in the order of the runs.
    pub rows: Vec<Row>,
    settings: Vec<String>,
    results: Vec<String>,
}

/// Output format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Markdown.
    Markdown,
    /// CSV, with mean and deviation in separate columns.
    Csv,
}

impl Comparison {
    /// Compares runs by the results `wanted`, or by the usual ones.
    ///
    /// # Errors
    ///
    /// If a folder is not a run, or no run has a wanted result.
    pub fn of(runs: &[impl AsRef<Path>], wanted: &[String]) -> Result<Self> {
        let runs = runs.iter().map(|run| RunData::read(run.as_ref()));
        let runs: Vec<RunData> = runs.collect::<Result<_>>()?;
        let known: BTreeSet<String> = runs
            .iter()
            .flat_map(|run| run.results().into_keys())
            .collect();
        if let Some(unknown) = wanted.iter().find(|name| !known.contains(*name)) {
            let known: Vec<_> = known.iter().map(String::as_str).collect();
            let fix = format!("use {}", known.join(", "));
            return Err(Error::config(
                "compare",
                "--metrics",
                unknown,
                "no run has this result",
                fix,
            ));
        }
        let results = match wanted {
            [] => FIRST
                .map(str::to_owned)
                .into_iter()
                .filter(|name| known.contains(name))
                .collect(),
            wanted => wanted.to_vec(),
        };
        Ok(Self::table(&runs, results))
    }

    fn table(runs: &[RunData], results: Vec<String>) -> Self {
        let mut groups: Vec<(BTreeMap<String, String>, Vec<&RunData>)> = Vec::new();
        for run in runs {
            let mut settings = run.settings.clone();
            settings.retain(|key, _| key != SEED && !PLACES.contains(&key.as_str()));
            match groups.iter_mut().find(|(known, _)| *known == settings) {
                Some((_, group)) => group.push(run),
                None => groups.push((settings, vec![run])),
            }
        }
        let keys: BTreeSet<&String> = groups
            .iter()
            .flat_map(|(settings, _)| settings.keys())
            .collect();
        let varies = |key: &&String| {
            let values: BTreeSet<_> = groups
                .iter()
                .map(|(settings, _)| settings.get(*key))
                .collect();
            values.len() > 1
        };
        let same_method = runs.iter().all(|run| run.method == runs[0].method);
        // Different methods differ in nearly all settings.
        let varying: Vec<String> = match same_method {
            true => keys.into_iter().filter(varies).cloned().collect(),
            false => Vec::new(),
        };
        let rows = groups.iter().map(|(settings, group)| Row {
            runs: group.iter().map(|run| run.name.clone()).collect(),
            method: group[0].method.clone(),
            settings: varying
                .iter()
                .filter_map(|key| Some((key.clone(), settings.get(key)?.clone())))
                .collect(),
            results: means(group),
        });
        Self {
            rows: rows.collect(),
            settings: varying,
            results,
        }
    }

    /// The table as text.
    pub fn to_text(&self, table: Table) -> String {
        let mut head = vec!["run".to_owned(), "method".to_owned(), "seeds".to_owned()];
        head.extend(self.settings.iter().cloned());
        for name in &self.results {
            head.push(name.clone());
            if table == Table::Csv {
                head.push(format!("{name}_deviation"));
            }
        }
        let rows = self.rows.iter().map(|row| {
            let mut cells = vec![
                row.runs[0].clone(),
                row.method.clone(),
                row.runs.len().to_string(),
            ];
            let setting = |key: &String| row.settings.get(key).cloned().unwrap_or_default();
            cells.extend(self.settings.iter().map(setting));
            for name in &self.results {
                cells.extend(cell(row.results.get(name), table));
            }
            cells
        });
        match table {
            Table::Markdown => {
                let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
                let rule = format!("|{}\n", "---|".repeat(head.len()));
                line(&head) + &rule + &rows.map(|cells| line(&cells)).collect::<String>()
            }
            Table::Csv => {
                let line = |cells: &[String]| {
                    let cells: Vec<_> = cells.iter().map(|cell| quoted(cell)).collect();
                    format!("{}\n", cells.join(","))
                };
                line(&head) + &rows.map(|cells| line(&cells)).collect::<String>()
            }
        }
    }

    /// All rows with all results.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let results = row.results.iter().map(|(name, Mean { mean, deviation })| {
                (
                    name.clone(),
                    json!({ "mean": mean, "deviation": deviation }),
                )
            });
            json!({
                "runs": row.runs,
                "method": row.method,
                "settings": row.settings,
                "results": results.collect::<serde_json::Map<_, _>>(),
            })
        });
        rows.collect()
    }
}

/// The means of the results that all runs of a row have.
fn means(runs: &[&RunData]) -> BTreeMap<String, Mean> {
    let results: Vec<_> = runs.iter().map(|run| run.results()).collect();
    let names = results.first().into_iter().flat_map(BTreeMap::keys);
    let of = |name: &String| -> Option<(String, Mean)> {
        let values: Option<Vec<f64>> = results.iter().map(|all| all.get(name).copied()).collect();
        let values = values?;
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (count - 1.)).sqrt());
        Some((name.clone(), Mean { mean, deviation }))
    };
    names.filter_map(of).collect()
}

fn cell(result: Option<&Mean>, table: Table) -> Vec<String> {
    match (result, table) {
        (None, Table::Markdown) => vec!["-".to_owned()],
        (None, Table::Csv) => vec![String::new(), String::new()],
        (Some(Mean { mean, deviation }), Table::Csv) => {
            vec![
                mean.to_string(),
                deviation.map_or(String::new(), |deviation| deviation.to_string()),
            ]
        }
        (Some(Mean { mean, deviation }), Table::Markdown) => {
            let digits = if mean.abs() < 10. { 4 } else { 1 };
            let deviation = deviation.map_or(String::new(), |deviation| {
                format!(" ± {deviation:.digits$}")
            });
            vec![format!("{mean:.digits$}{deviation}")]
        }
    }
}

/// A cell quoted for CSV.
fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, seed: u64, ratio: &str, top1: f64) -> RunData {
        let settings = [(SEED, seed.to_string()), ("mask_ratio", ratio.to_owned())];
        RunData {
            name: name.to_owned(),
            method: "mae".to_owned(),
            settings: settings.map(|(key, value)| (key.to_owned(), value)).into(),
            recipe: None,
            log: vec![],
            summary: json!({ "knn_top1": top1 }),
            pictures: vec![],
        }
    }

    #[test]
    fn seeds_become_a_mean_and_a_deviation() {
        let runs = [
            run("a", 0, "0.5", 60.),
            run("b", 0, "0.75", 70.),
            run("c", 1, "0.5", 64.),
        ];
        let table = Comparison::table(&runs, vec!["knn_top1".to_owned()]);
        assert_eq!(table.rows.len(), 2);
        assert_eq!(table.rows[0].runs, ["a", "c"]);
        let text = table.to_text(Table::Markdown);
        assert!(
            text.contains("| a | mae | 2 | 0.5 | 62.0 ± 2.8 |"),
            "{text}"
        );
        assert!(text.contains("| b | mae | 1 | 0.75 | 70.0 |"), "{text}");
        let csv = table.to_text(Table::Csv);
        assert!(
            csv.starts_with(
                "run,method,seeds,mask_ratio,knn_top1,knn_top1_deviation\na,mae,2,0.5,62,2.8"
            ),
            "{csv}"
        );
        assert_eq!(table.to_json()[1]["results"]["knn_top1"]["mean"], 70.);
    }

    #[test]
    fn cells_with_commas_are_quoted() {
        assert_eq!(quoted("[0.5, 1]"), "\"[0.5, 1]\"");
        assert_eq!(quoted("a \"b\""), "\"a \"\"b\"\"\"");
    }
}
