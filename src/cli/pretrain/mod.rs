//! `mim pretrain`.

mod args;
mod describe;
mod dry_run;
mod finish;
pub(crate) mod picture;
pub(crate) mod probe;
pub(crate) mod resume;
mod rows;
mod stages;
mod stop_rule;
pub(crate) mod summary;
mod tune;
pub(crate) mod watch;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use crate::RunConfig;
use crate::init::InitFrom;
use crate::run_config::{self, HeldOut, Images};
use candle_core::Device;
use mim_core::comm::{self, Communicator, Launch};
use mim_core::rng::name_hash;
use mim_core::train::{Checkpoint, Outcome, Trainer};
use mim_core::{Error, Method, Result};

pub(crate) use args::Args;
use finish::finish;
use resume::{other_images, same_settings};
use stages::Stages;
use watch::Watch;

use crate::cli::folder;
use crate::cli::mlflow::Status;
use crate::cli::options::Options;
use crate::cli::{device, outcome};

/// What a run started from, if not from random weights.
pub(crate) const INIT: &str = "init.txt";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let args = &args.located()?;
    let config = args.config()?;
    start(&args.options, &config, &|| args.init())
}

/// What finds the weights that a run starts from.
type Init<'a> = &'a dyn Fn() -> Result<Option<InitFrom>>;

/// Trains, on the device and in the processes that the program was started with, or prints the settings.
pub(crate) fn start(options: &Options, config: &RunConfig, init: Init<'_>) -> Result<ExitCode> {
    if options.print_config {
        print!("{}", config.to_toml()?);
        return Ok(ExitCode::SUCCESS);
    }
    let launch = Launch::from_env()?;
    let device = device::open(&own_device(&options.device, launch.as_ref()))?;
    let comm = comm::join(launch.as_ref(), &device)?;
    let run = match options.dry_run {
        true => dry_run::run,
        false => train,
    };
    match run((options, init), config, &device, &comm) {
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
    (args, init): (&Options, Init<'_>),
    config: &RunConfig,
    device: &Device,
    comm: &Arc<dyn Communicator>,
) -> Result<ExitCode> {
    let (start, leads) = (Instant::now(), comm.rank() == 0);
    let run = args
        .output_dir
        .clone()
        .unwrap_or_else(|| folder::next(&config.method));
    let resumed = args.checkpoint(&run)?;
    if let Some(checkpoint) = &resumed
        && args.is_done(config, checkpoint, &run)?
    {
        if leads {
            let summary = run.join("summary.json");
            let summary = summary.display();
            eprintln!("the run is finished, see {summary}; train it further by --epochs");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if resumed.is_none() && args.resume.is_some() && leads {
        eprintln!(
            "there is no checkpoint in {}: the run starts anew",
            run.display()
        );
    }
    let (mut trainer, images) = ready(
        (args, init),
        config,
        (device, comm),
        (&run, resumed.as_ref()),
    )?;
    let fresh = leads && resumed.is_none();
    let on = (device, leads);
    let (outcome, mut watch) = watched(&mut trainer, args, (config, &images), on, fresh)?;
    let status = watch.progress.finish();
    if let (Some(why), true) = (&watch.ended, leads) {
        eprintln!("the run ends here: {why}");
    }
    let mlflow = watch.mlflow.take();
    if let (Outcome::Stopped { step }, None) = (outcome, &watch.ended) {
        mlflow.into_iter().for_each(|run| run.end(Status::Killed));
        if leads {
            let run = run.display();
            eprintln!("stopped after step {step}; resume with --resume auto --output-dir {run}");
        }
        comm.leave();
        return Ok(ExitCode::from(status));
    }
    // Before the rest, which rank 0 does alone.
    comm.leave();
    if !leads {
        return Ok(ExitCode::SUCCESS);
    }
    let evaluate = !args.no_eval;
    finish(config, (&trainer, &images), evaluate, device, start);
    mlflow.into_iter().for_each(|run| run.end(Status::Finished));
    println!("{}", run.display());
    Ok(ExitCode::SUCCESS)
}

/// Trains to the end, or to where a rule or a signal ends the run. The folder of a fresh run that fails before its
/// first step is removed: it is no run. What is kept for a replay stays.
fn watched(
    trainer: &mut Trainer,
    args: &Options,
    (config, images): (&RunConfig, &Images),
    on: (&Device, bool),
    fresh: bool,
) -> Result<(Outcome, Watch)> {
    let failed = |trainer: &Trainer, error| match fresh {
        true => folder::remove(trainer.run()).and(Err(error)),
        false => Err(error),
    };
    let started = Watch::new(&args.watch, config, images, on).and_then(|mut watch| {
        if on.1 {
            watch.mlflow = args.log.start(config, trainer.run())?;
        }
        Ok(watch)
    });
    let mut watch = match started {
        Ok(watch) => watch,
        Err(error) => return failed(trainer, error),
    };
    let mut stages = Stages {
        config,
        images,
        device: on.0,
        run: trainer.run().to_owned(),
        evaluate: !args.no_eval,
        watch: &mut watch,
    };
    let done = trainer.train(&mut stages);
    if done.is_err() {
        let mlflow = watch.mlflow.take();
        mlflow.into_iter().for_each(|run| run.end(Status::Failed));
    }
    match done {
        Err(error @ Error::NonFinite { .. }) => Err(error),
        Err(error) if watch.progress.is_empty() => failed(trainer, error),
        done => Ok((done?, watch)),
    }
}

/// The trainer at the place where the run starts or resumes, and its folder.
fn ready(
    (args, init): (&Options, Init<'_>),
    config: &RunConfig,
    (device, comm): (&Device, &Arc<dyn Communicator>),
    (run, checkpoint): (&Path, Option<&Checkpoint>),
) -> Result<(Trainer, Images)> {
    // What rank 0 downloads is there for the others.
    let (images, method, started) = comm::rank_0_first(comm.as_ref(), || {
        let images = config.data.open(config.train.seed)?;
        let method = config.build(device)?;
        let started = match (checkpoint, init()?) {
            (None, Some(init)) => Some(init.apply(config, method.as_ref())?.to_string()),
            (None, None) => needs_no_weights(method.as_ref())?,
            (Some(_), _) => None,
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
    if let Some(checkpoint) = checkpoint {
        let changes = same_settings(config, checkpoint)?;
        let changes = changes.into_iter().chain(other_images(&images, checkpoint));
        if leads {
            changes.for_each(|line| eprintln!("warning: {line}"));
        }
        trainer.resume(checkpoint)?;
    }
    if leads {
        folder::prepare(run, args.contents(run, checkpoint.is_some()))?;
        folder::write(&run.join("config.toml"), &config.to_toml()?)?;
        if let Some(started) = &started {
            eprintln!("{started}");
            folder::write(&run.join(INIT), &format!("{started}\n"))?;
        }
        announce(config, &trainer, &images, comm.world());
        for line in describe::images(&images) {
            eprintln!("{line}");
        }
        for note in images.notes() {
            eprintln!("{note}");
        }
        for line in run_config::warnings(config, trainer.iters_per_epoch()) {
            eprintln!("warning: {line}");
        }
        if let Some(checkpoint) = checkpoint {
            let state = checkpoint.state();
            let epoch = (state.epoch + 1).min(config.train.epochs);
            eprintln!(
                "resuming after step {}, in epoch {epoch} of {}",
                state.step, config.train.epochs
            );
        }
    }
    Ok((trainer, images))
}

/// Refuses a method that cannot start from initial values.
fn needs_no_weights(method: &dyn Method) -> Result<Option<String>> {
    match method.must_start_from() {
        None => Ok(None),
        Some(what) => Err(Error::config(
            "pretrain",
            "--init",
            "not given",
            format!("{} starts from {what}", method.name()),
            "give a run folder or a file of weights by --init, and whose names they have by --init-source",
        )),
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
