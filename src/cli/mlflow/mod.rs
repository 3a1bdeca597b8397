//! `--log mlflow:URL`: settings and figures of a run for an MLflow server.
//!
//! No failure here ends a run. Figures that do not arrive are kept and sent with the next ones.

mod api;
mod args;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use mim_core::files;
use mim_core::train::EpochRecord;
use serde_json::{Value, json};

use self::api::{Answer, Api};
pub(crate) use self::args::LogArgs;
use self::args::Server;

/// The file in a run folder that names its run on the server, so that a resumed run continues it.
const FILE: &str = "mlflow.json";
/// Maximum number of metrics and of parameters in a request.
const METRICS: usize = 1000;
const PARAMS: usize = 100;
/// Maximum length of a parameter value in characters that all server versions accept; `config.toml` has the full value.
const LONGEST: usize = 500;

/// How a run ended, in MLflow's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Finished,
    Failed,
    Killed,
}

/// A run on a server.
pub(crate) struct Mlflow {
    api: Api,
    experiment: String,
    folder: PathBuf,
    /// Its id on the server, once known.
    id: Option<String>,
    /// Settings that have not arrived yet.
    params: Vec<(String, String)>,
    /// Figures that have not arrived yet.
    waiting: Vec<Value>,
    /// Steps done.
    step: usize,
    /// Requests that failed.
    failures: usize,
}

impl Mlflow {
    /// The run in `folder`, with these settings; a resumed run continues its run on the server.
    fn start(
        server: &Server,
        experiment: &str,
        folder: &Path,
        params: Vec<(String, String)>,
    ) -> Self {
        let mut run = Self {
            api: Api::new(&server.url),
            experiment: experiment.to_owned(),
            folder: folder.to_owned(),
            id: resumed(folder, &server.url),
            params,
            waiting: Vec::new(),
            step: 0,
            failures: 0,
        };
        if run.id.is_some() {
            // The server already has the settings, and an end of the run.
            run.params.clear();
            run.tried(|run| run.update("RUNNING", None));
        }
        run.tried(Self::send);
        run
    }

    /// The figures of an epoch.
    pub(crate) fn epoch(&mut self, record: &EpochRecord) {
        let own = [
            ("loss", record.train_loss),
            ("lr", record.lr),
            ("grad_norm", record.grad_norm),
            ("images_per_s", record.images_per_s),
        ];
        let terms = record.terms.iter();
        let terms = terms.map(|(name, value)| (format!("terms.{name}"), *value));
        let measured = record.measured.iter();
        let measured = measured.map(|(name, value)| (name.clone(), *value));
        let own = own
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter();
        self.step = record.step;
        self.add(own.chain(terms).chain(measured));
        self.tried(Self::send);
    }

    /// Sends the numbers of `summary.json` and the end of the run. Reports how much did not arrive.
    pub(crate) fn end(mut self, status: Status) {
        let text = std::fs::read_to_string(self.folder.join("summary.json")).unwrap_or_default();
        if let (Status::Finished, Ok(Value::Object(summary))) =
            (status, serde_json::from_str(&text))
        {
            let numbers = summary.iter();
            let numbers = numbers
                .filter_map(|(name, value)| Some((format!("final.{name}"), value.as_f64()?)));
            self.add(numbers);
        }
        self.tried(Self::send);
        let word = match status {
            Status::Finished => "FINISHED",
            Status::Failed => "FAILED",
            Status::Killed => "KILLED",
        };
        self.tried(|run| run.update(word, Some(now())));
        if self.failures > 0 {
            let (failures, lost) = (self.failures, self.waiting.len());
            eprintln!(
                "warning: {failures} requests to {} failed; {lost} figures did not arrive (log.jsonl has them)",
                self.api.url
            );
        }
    }

    /// Adds figures; MLflow accepts only finite ones.
    fn add(&mut self, figures: impl Iterator<Item = (String, f64)>) {
        let (time, step) = (now(), self.step);
        let figures = figures.filter(|(_, value)| value.is_finite());
        self.waiting.extend(figures.map(
            |(key, value)| json!({ "key": key, "value": value, "timestamp": time, "step": step }),
        ));
    }

    /// Sends requests; the first failure is reported.
    fn tried(&mut self, requests: impl FnOnce(&mut Self) -> Result<(), String>) {
        if let Err(why) = requests(self) {
            if self.failures == 0 {
                let url = &self.api.url;
                eprintln!(
                    "warning: {url} does not accept the figures of the run; training goes on without it: {why}"
                );
            }
            self.failures += 1;
        }
    }

    /// Sends what is waiting.
    fn send(&mut self) -> Result<(), String> {
        let id = self.known()?;
        while !self.params.is_empty() {
            let some = self.params.iter().take(PARAMS);
            let cut = |value: &str| value.chars().take(LONGEST).collect::<String>();
            let some = some.map(|(key, value)| json!({ "key": key, "value": cut(value) }));
            let some: Vec<Value> = some.collect();
            done(
                self.api
                    .post("runs/log-batch", &json!({ "run_id": id, "params": some }))?,
            )?;
            self.params.drain(..some.len());
        }
        while !self.waiting.is_empty() {
            let count = self.waiting.len().min(METRICS);
            let some = &self.waiting[..count];
            done(
                self.api
                    .post("runs/log-batch", &json!({ "run_id": id, "metrics": some }))?,
            )?;
            self.waiting.drain(..count);
        }
        Ok(())
    }

    /// The id of the run; creates it on the server if necessary.
    fn known(&mut self) -> Result<String, String> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let experiment = self.experiment()?;
        let name = self
            .folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let run = json!({
            "experiment_id": experiment,
            "run_name": name,
            "start_time": now(),
            "tags": [{ "key": "mim.version", "value": env!("CARGO_PKG_VERSION") }],
        });
        let made = done(self.api.post("runs/create", &run)?)?;
        let id = text(&made["run"]["info"]["run_id"])?;
        self.id = Some(id.clone());
        let known = json!({ "url": self.api.url, "experiment": self.experiment, "run_id": id });
        files::write(&self.folder.join(FILE), format!("{known:#}\n"))
            .map_err(|error| error.to_string())?;
        Ok(id)
    }

    /// The id of the experiment, which is created if necessary.
    fn experiment(&self) -> Result<String, String> {
        let name = self.experiment.as_str();
        let found = self
            .api
            .get("experiments/get-by-name", ("experiment_name", name))?;
        match found {
            Answer::Done(found) => text(&found["experiment"]["experiment_id"]),
            Answer::Missing => {
                let made = self
                    .api
                    .post("experiments/create", &json!({ "name": name }))?;
                text(&done(made)?["experiment_id"])
            }
        }
    }

    /// Sets the status of the run, and when it ended.
    fn update(&mut self, status: &str, end: Option<u64>) -> Result<(), String> {
        let Some(id) = &self.id else {
            return Ok(());
        };
        let mut body = json!({ "run_id": id, "status": status });
        if let Some(end) = end {
            body["end_time"] = json!(end);
        }
        done(self.api.post("runs/update", &body)?).map(drop)
    }
}

/// The run on the server that a run folder names.
fn resumed(folder: &Path, url: &str) -> Option<String> {
    let text = std::fs::read_to_string(folder.join(FILE)).ok()?;
    let known: Value = serde_json::from_str(&text).ok()?;
    match known["url"] == url {
        true => known["run_id"].as_str().map(str::to_owned),
        false => None,
    }
}

fn done(answer: Answer) -> Result<Value, String> {
    match answer {
        Answer::Done(value) => Ok(value),
        Answer::Missing => Err("the run or experiment is no longer there".to_owned()),
    }
}

fn text(value: &Value) -> Result<String, String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| "the answer lacks an id that MLflow always gives".to_owned())
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.map_or(0, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    })
}
