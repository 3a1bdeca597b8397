//! `mim pretrain`.

mod args;
pub(crate) mod picture;
pub(crate) mod probe;
mod summary;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use mim::RunConfig;
use mim_core::data::Split;
use mim_core::train::{Checkpoint, EpochLog, Outcome, Trainer};
use mim_core::{Error, Result};

pub(crate) use args::Args;
use summary::Summary;

use crate::folder::{self, Contents};
use crate::progress::Progress;
use crate::{device, plot};

/// What a run started from, if not from random weights.
const INIT: &str = "init.txt";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.config()?;
    if args.print_config {
        print!("{}", config.to_toml()?);
        return Ok(ExitCode::SUCCESS);
    }
    let start = Instant::now();
    let run = args
        .output_dir
        .clone()
        .unwrap_or_else(|| folder::next(&config.method));
    let checkpoint = args.checkpoint(&run)?;
    let device = device::open(&args.device)?;
    let train = config.data.source.open(Split::Train)?;
    let loading = config.data.loading(config.train.batch_size);
    let method = config.build(&device)?;
    let started = match (&checkpoint, args.init()?) {
        (None, Some(init)) => Some(init.apply(&config, method.as_ref())?.to_string()),
        _ => None,
    };
    let mut trainer = Trainer::new(
        method,
        (train.clone(), loading),
        config.train.clone(),
        &run,
        config.to_json()?,
    )?;
    folder::prepare(&run, args.contents(&run, checkpoint.is_some()))?;
    if let Some(checkpoint) = &checkpoint {
        same_settings(&config, checkpoint)?;
        trainer.resume(checkpoint)?;
        eprintln!(
            "resuming at step {} of {}",
            checkpoint.state().step,
            trainer.iters_per_epoch() * config.train.epochs
        );
    }
    folder::write(&run.join("config.toml"), &config.to_toml()?)?;
    if let Some(started) = &started {
        eprintln!("{started}");
        folder::write(&run.join(INIT), &format!("{started}\n"))?;
    }
    announce(&config, &trainer, train.len());
    let mut progress = Progress::new(config.train.epochs);
    let outcome = trainer.train(&mut progress)?;
    progress.finish();
    plot::loss(&EpochLog::new(&run).read()?, &run.join("loss.svg"))?;
    if let Outcome::Stopped { step } = outcome {
        eprintln!(
            "stopped after step {step}; go on with --resume auto --output-dir {}",
            run.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let summary = finish(&config, &trainer, &run, &device, start)?;
    summary.print();
    println!("{}", run.display());
    Ok(ExitCode::SUCCESS)
}

/// Pictures, probes and summary of a finished run.
fn finish(
    config: &RunConfig,
    trainer: &Trainer,
    run: &Path,
    device: &candle_core::Device,
    start: Instant,
) -> Result<Summary> {
    match picture::images(&config.data.source).and_then(|images| {
        picture::draw(
            config,
            trainer.method(),
            images,
            (8, config.train.seed),
            &run.join("reconstruction.png"),
        )
    }) {
        Err(error @ Error::Unsupported { .. }) => eprintln!("no picture: {error}"),
        done => done?,
    }
    let probes = probe::all(config, trainer.method(), device)?;
    let mut notes = trainer.method().notes();
    if let Ok(started) = std::fs::read_to_string(run.join(INIT)) {
        notes.extend(started.lines().next().map(str::to_owned));
    }
    let summary = Summary::new(
        &EpochLog::new(run).read()?,
        probes,
        start.elapsed().as_secs_f64(),
        notes,
    );
    summary.write(&run.join("summary.json"))?;
    Ok(summary)
}

/// A checkpoint goes on under the settings it was made with; only those that cannot change a result may differ.
fn same_settings(config: &RunConfig, checkpoint: &Checkpoint) -> Result<()> {
    const FREE: [&str; 4] = [
        "data.workers",
        "data.prefetch",
        "train.keep_checkpoints",
        "train.checkpoint_every",
    ];
    let (mut now, mut then) = (Vec::new(), Vec::new());
    flatten(&config.to_json()?, String::new(), &mut now);
    flatten(&checkpoint.state().config, String::new(), &mut then);
    let free = |key: &str| FREE.contains(&key) || key.starts_with("eval.");
    let differs = |pair: &&(String, String), others: &[(String, String)]| {
        !free(&pair.0) && !others.contains(pair)
    };
    let mut changed: Vec<&str> = now
        .iter()
        .filter(|pair| differs(pair, &then))
        .map(|(key, _)| key.as_str())
        .collect();
    changed.extend(
        then.iter()
            .filter(|pair| differs(pair, &now))
            .map(|(key, _)| key.as_str()),
    );
    changed.sort_unstable();
    changed.dedup();
    if changed.is_empty() {
        return Ok(());
    }
    Err(Error::format(
        checkpoint.path(),
        format!(
            "the run was started with other settings: {} differ",
            changed.join(", ")
        ),
        "resume with the settings of its config.toml (--config RUN/config.toml), or start a new run",
    ))
}

/// Every value with its dotted key.
fn flatten(value: &serde_json::Value, key: String, out: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(entries) => {
            for (name, value) in entries {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                flatten(value, key, out);
            }
        }
        value => out.push((key, value.to_string())),
    }
}

fn announce(config: &RunConfig, trainer: &Trainer, images: usize) {
    let values: usize = trainer
        .method()
        .stores()
        .iter()
        .map(|(_, store)| store.trainable_values())
        .sum();
    eprintln!(
        "{}: {:.2} M parameters, {images} images from {}, {} epochs of {} steps, peak lr {:.2e}, into {}",
        config.method,
        values as f64 / 1e6,
        config.data.source,
        config.train.epochs,
        trainer.iters_per_epoch(),
        config.train.peak_lr(trainer.method().batch_factor()),
        trainer.run().display(),
    );
}

impl Args {
    /// The checkpoint to go on from, if any.
    fn checkpoint(&self, run: &Path) -> Result<Option<Checkpoint>> {
        match self.resume.as_deref() {
            None => Ok(None),
            Some("auto") => Checkpoint::latest(run),
            Some(path) => Checkpoint::open(PathBuf::from(path)).map(Some),
        }
    }

    fn contents(&self, run: &Path, resuming: bool) -> Contents {
        // A run that was ended before its first checkpoint may leave settings and a log behind.
        let started = run.join("config.toml").exists() && self.resume.as_deref() == Some("auto");
        match (resuming, self.overwrite || started) {
            (true, _) => Contents::Kept,
            (false, true) => Contents::Removed,
            (false, false) => Contents::Empty,
        }
    }
}
