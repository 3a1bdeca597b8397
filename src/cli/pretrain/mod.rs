//! `mim pretrain`.

mod args;
pub(crate) mod picture;
pub(crate) mod probe;
pub(crate) mod summary;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use mim::RunConfig;
use mim::run_config::{self, HeldOut, Images};
use mim_core::comm::{self, Communicator, Launch};
use mim_core::rng::name_hash;
use mim_core::train::{Checkpoint, EpochLog, Outcome, Trainer};
use mim_core::{Error, Result};

pub(crate) use args::Args;
use summary::Summary;

use crate::folder::{self, Contents};
use crate::progress::Progress;
use crate::{device, outcome, plot};

/// What a run started from, if not from random weights.
const INIT: &str = "init.txt";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.config()?;
    if args.print_config {
        print!("{}", config.to_toml()?);
        return Ok(ExitCode::SUCCESS);
    }
    let launch = Launch::from_env()?;
    let device = device::open(&own_device(&args.device, launch.as_ref()))?;
    let comm = comm::join(launch.as_ref(), &device)?;
    match train(args, &config, &device, &comm) {
        Err(error) if comm.world() > 1 => {
            // The others wait for this process, and would wait for ever.
            let code = outcome::failed(&format!("rank {}: {error}", comm.rank()));
            comm.abort();
            Ok(code)
        }
        done => done,
    }
}

/// The device of this process: a GPU of its own among those of its machine, unless one is named.
fn own_device(name: &str, launch: Option<&Launch>) -> String {
    match launch {
        Some(launch)
            if matches!(name, "auto" | "cuda") && candle_core::utils::cuda_is_available() =>
        {
            format!("cuda:{}", launch.gpu())
        }
        _ => name.to_owned(),
    }
}

fn train(
    args: &Args,
    config: &RunConfig,
    device: &Device,
    comm: &Arc<dyn Communicator>,
) -> Result<ExitCode> {
    let (start, leads) = (Instant::now(), comm.rank() == 0);
    let run = args
        .output_dir
        .clone()
        .unwrap_or_else(|| folder::next(&config.method));
    let (mut trainer, images) = ready(args, config, (device, comm), &run)?;
    let mut progress = Progress::new(config.train.epochs, leads);
    let outcome = trainer.train(&mut progress)?;
    progress.finish();
    // Before the rest, which rank 0 does alone.
    comm.leave();
    if !leads {
        return Ok(ExitCode::SUCCESS);
    }
    if let Outcome::Stopped { step } = outcome {
        eprintln!(
            "stopped after step {step}; go on with --resume auto --output-dir {}",
            run.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    finish(config, (&trainer, &images), &run, device, start);
    println!("{}", run.display());
    Ok(ExitCode::SUCCESS)
}

/// The trainer at the place where the run starts or goes on, and its folder.
fn ready(
    args: &Args,
    config: &RunConfig,
    (device, comm): (&Device, &Arc<dyn Communicator>),
    run: &Path,
) -> Result<(Trainer, Images)> {
    let checkpoint = args.checkpoint(run)?;
    // What rank 0 downloads is there for the others.
    let (images, method, started) = comm::rank_0_first(comm.as_ref(), || {
        let images = config.data.open(config.train.seed)?;
        let method = config.build(device)?;
        let started = match (&checkpoint, args.init()?) {
            (None, Some(init)) => Some(init.apply(config, method.as_ref())?.to_string()),
            _ => None,
        };
        Ok((images, method, started))
    })?;
    config.check_views(method.as_ref())?;
    let data = (
        images.train.clone(),
        config.data.loading(config.train.batch_size),
    );
    let resolved = config.to_json()?;
    let settings = name_hash(&resolved.to_string());
    let mut trainer = Trainer::new(method, data, config.train.clone(), run)?
        .settings(resolved)
        .parallel(comm.clone())?;
    // None may change the folder before all have read it.
    comm::same(comm.as_ref(), "the settings", settings)?;
    let leads = comm.rank() == 0;
    if leads {
        folder::prepare(run, args.contents(run, checkpoint.is_some()))?;
    }
    if let Some(checkpoint) = &checkpoint {
        same_settings(config, checkpoint)?;
        trainer.resume(checkpoint)?;
    }
    if leads {
        folder::write(&run.join("config.toml"), &config.to_toml()?)?;
        if let Some(started) = &started {
            eprintln!("{started}");
            folder::write(&run.join(INIT), &format!("{started}\n"))?;
        }
        announce(config, &trainer, &images, comm.world());
        for line in run_config::warnings(config, trainer.iters_per_epoch()) {
            eprintln!("warning: {line}");
        }
        if let Some(checkpoint) = &checkpoint {
            let all = trainer.iters_per_epoch() * config.train.epochs;
            eprintln!("resuming at step {} of {all}", checkpoint.state().step);
        }
    }
    Ok((trainer, images))
}

/// Pictures, probes and summary of a finished run. Nothing here costs the run: what fails is said and listed.
fn finish(
    config: &RunConfig,
    (trainer, images): (&Trainer, &Images),
    run: &Path,
    device: &Device,
    start: Instant,
) {
    let mut problems = Vec::new();
    let mut keep = |what: &str, done: Result<()>| {
        if let Err(error) = done {
            problems.push(format!("no {what}: {error}"));
        }
    };
    let log = EpochLog::new(run).read().unwrap_or_else(|error| {
        keep("log", Err(error));
        Vec::new()
    });
    keep("loss.svg", plot::loss(&log, &run.join("loss.svg")));
    let method = trainer.method();
    let pictures = images
        .held_out
        .as_ref()
        .map_or(&images.train, |(_, held)| held);
    let (many, path) = ((8, config.train.seed), run.join("reconstruction.png"));
    match picture::draw(config, method, pictures.clone(), many, &path) {
        Err(Error::Unsupported { .. }) => {
            eprintln!("no picture: {} does not predict pixels", method.name())
        }
        done => keep("picture", done),
    }
    let mut summary = Summary::new(&log);
    summary.rows = probe::all(config, method, images, device);
    summary.notes = method.notes();
    if let Ok(started) = std::fs::read_to_string(run.join(INIT)) {
        summary
            .notes
            .extend(started.lines().next().map(str::to_owned));
    }
    summary.images = images.train.len();
    summary.seconds = start.elapsed().as_secs_f64();
    summary.rows.problems.splice(0..0, problems);
    if let Err(error) = summary.write(config, &run.join("summary.json")) {
        summary
            .rows
            .problems
            .push(format!("no summary.json: {error}"));
    }
    summary.print();
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
    // Settings that are newer than the run have the values it was trained with.
    let old = RunConfig::from_json(&checkpoint.state().config)?;
    flatten(&old.to_json()?, String::new(), &mut then);
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

fn announce(config: &RunConfig, trainer: &Trainer, images: &Images, processes: usize) {
    let values: usize = trainer
        .method()
        .stores()
        .iter()
        .map(|(_, store)| store.trainable_values())
        .sum();
    let (trained, held) = (images.train.len(), images.held_out.as_ref());
    let images = match held {
        Some((HeldOut::Share(_), held)) => format!(
            "{} images from {}, {} of them held out for probes",
            trained + held.len(),
            config.data.source,
            held.len()
        ),
        _ => format!("{trained} images from {}", config.data.source),
    };
    eprintln!(
        "{}: {:.2} M parameters, {images}, {} epochs of {} steps{}, peak lr {:.2e}, into {}",
        config.method,
        values as f64 / 1e6,
        config.train.epochs,
        trainer.iters_per_epoch(),
        match processes {
            1 => String::new(),
            many => format!(" in {many} processes"),
        },
        trainer.peak_lr(),
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
