//! `mim pretrain`.

mod args;
mod begin;
mod describe;
mod dry_run;
mod end;
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
use crate::run_config::{self, Images};
use candle_core::Device;
use mim_core::comm::{self, Communicator, Launch};
use mim_core::rng::name_hash;
use mim_core::train::{Checkpoint, Outcome, Trainer};
use mim_core::{Error, Method, Result};

pub(crate) use args::Args;
use begin::{announce, begin, found, is_finished, say};
use end::End;
use resume::{other_images, same_settings};
use stages::Stages;
use watch::Watch;

use crate::cli::folder;
use crate::cli::mlflow::Status;
use crate::cli::options::Options;
use crate::cli::{device, outcome};

/// What a run started from, unless from random weights.
pub(crate) const INIT: &str = "init.txt";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let args = &args.located()?;
    let config = args.config()?;
    start(&args.options, &config, &|| args.init())
}

/// Finds the weights that a run starts from.
type Init<'a> = &'a dyn Fn() -> Result<Option<InitFrom>>;

/// Trains on the chosen device, in all processes that were started, or prints the settings.
pub(crate) fn start(options: &Options, config: &RunConfig, init: Init<'_>) -> Result<ExitCode> {
    if options.print_config {
        print!("{}", config.to_toml()?);
        return Ok(ExitCode::SUCCESS);
    }
    let launch = Launch::from_env()?;
    let device = device::open(&own_device(&options.device, launch.as_ref()))?;
    let comm = comm::join(launch.as_ref(), &device)?;
    match train((options, init), config, &device, &comm) {
        Err(error) if comm.world() > 1 => {
            // The other processes would wait for this one for ever.
            let code = outcome::failed(&format!("rank {}: {error}", comm.rank()));
            comm.abort();
            Ok(code)
        }
        done => done,
    }
}

/// The device of this process: one GPU per process of a machine, unless one is named.
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
    let run = match args.dry_run {
        true => dry_run::folder_beside(&run),
        false => run,
    };
    let (lock, resumed) = found(args, &run, comm.as_ref())?;
    if let Some(checkpoint) = &resumed
        && args.is_done(config, checkpoint, &run)?
    {
        if leads {
            is_finished(&run)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let on = (device, comm);
    let (mut trainer, images, started) = ready(init, config, on, (&run, resumed.as_ref()))?;
    // Held until the run ends.
    let _lock = match leads {
        true => Some(begin(args, config, &run, (lock, resumed.as_ref()))?),
        false => None,
    };
    if leads {
        announce(config, &trainer, &images, comm.world());
        let warnings = run_config::warnings(config, trainer.iters_per_epoch());
        say(config, &run, (started, warnings), resumed.as_ref())?;
    }
    if args.dry_run {
        let line = dry_run::step(&mut trainer, leads)?;
        comm.leave();
        if leads {
            eprintln!("{line}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let fresh = leads && resumed.is_none();
    let on = (device, leads);
    let (outcome, watch) = watched(&mut trainer, args, (config, &images), on, fresh)?;
    let evaluate = !args.no_eval;
    let done = End {
        outcome,
        watch,
        evaluate,
        start,
    };
    done.conclude(config, (&trainer, &images), (device, comm.as_ref()))
}

/// Trains to the end, or until a rule or a signal ends the run. If a new run fails before its first step, its folder is
/// removed, except what a replay needs.
fn watched(
    trainer: &mut Trainer,
    args: &Options,
    (config, images): (&RunConfig, &Images),
    on: (&Device, bool),
    fresh: bool,
) -> Result<(Outcome, Watch)> {
    let failed = |trainer: &Trainer, error| {
        if fresh && let Err(left) = folder::remove(trainer.run()) {
            tracing::warn!("{left}");
        }
        Err(error)
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

/// The trainer at the point where the run starts or resumes, and a line about its initial weights.
fn ready(
    init: Init<'_>,
    config: &RunConfig,
    (device, comm): (&Device, &Arc<dyn Communicator>),
    (run, checkpoint): (&Path, Option<&Checkpoint>),
) -> Result<(Trainer, Images, Option<String>)> {
    // Rank 0 downloads for the others.
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
    // No process may change the folder before all have read it.
    comm::same(comm.as_ref(), "the settings", settings)?;
    if let Some(checkpoint) = checkpoint {
        let changes = same_settings(config, checkpoint)?;
        let changes = changes.into_iter().chain(other_images(&images, checkpoint));
        if comm.rank() == 0 {
            changes.for_each(|line| eprintln!("warning: {line}"));
        }
        trainer.resume(checkpoint)?;
    }
    Ok((trainer, images, started))
}

/// Refuses random weights for a method that cannot start from them.
fn needs_no_weights(method: &dyn Method) -> Result<Option<String>> {
    match method.must_start_from() {
        None => Ok(None),
        Some(what) => Err(Error::config(
            "pretrain",
            "--init",
            "not given",
            format!("{} starts from {what}", method.name()),
            "give a run folder or a file of weights by --init, and the project of its names by --init-source",
        )),
    }
}
