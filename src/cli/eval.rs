//! `mim eval`.

use std::process::ExitCode;
use std::sync::Arc;

use crate::DataConfig;
use clap::Subcommand;
use mim_core::data::{DataSource, Dataset, Split};
use mim_core::{Error, Result};
use mim_eval::Pooling;
use serde_json::json;

use crate::cli::device;
use crate::cli::model::Model;
use crate::cli::pretrain::probe::{Pair, cap, put_settings};
use crate::cli::pretrain::summary::version;

/// Settings of `mim eval`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    protocol: Protocol,
}

#[derive(Debug, Subcommand)]
enum Protocol {
    /// A linear classifier on frozen features: multinomial logistic regression, top-1 and top-5 in percent.
    Linear(Settings),
    /// The votes of the nearest training images in feature space, top-1 and top-5 in percent.
    Knn(Neighbours),
}

/// Settings of `mim eval knn`.
#[derive(Debug, clap::Args)]
struct Neighbours {
    #[command(flatten)]
    settings: Settings,
    /// How many vote; that of the run's evaluation by default.
    #[arg(long)]
    k: Option<usize>,
}

/// Settings of a protocol.
#[derive(Debug, clap::Args)]
struct Settings {
    #[command(flatten)]
    model: Model,
    /// Which encoder, where a method has several: teacher (the default there) or student.
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// Labelled images, as in `mim pretrain`; those of the run by default (`embedded` for published weights).
    #[arg(long)]
    data: Option<DataSource>,
    /// Which images are measured on: train, val or test; what the table of a run uses by default (val, test, or the
    /// share of the training images that was held out).
    #[arg(long)]
    split: Option<Split>,
    /// Print all results and settings as JSON.
    #[arg(long)]
    json: bool,
    /// What becomes the feature: mean or max (of the patches) or cls; that of the run's evaluation by default.
    #[arg(long, value_parser = pooling)]
    pooling: Option<Pooling>,
    /// Where to run.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Threads; all cores by default.
    #[arg(long)]
    threads: Option<usize>,
}

/// Reads `--pooling`.
pub(crate) fn pooling(name: &str) -> std::result::Result<Pooling, String> {
    match name {
        "mean" => Ok(Pooling::Mean),
        "max" => Ok(Pooling::Max),
        "cls" => Ok(Pooling::Cls),
        _ => Err("use mean, max or cls".to_owned()),
    }
}

impl Args {
    fn settings(&self) -> &Settings {
        match &self.protocol {
            Protocol::Linear(settings) => settings,
            Protocol::Knn(neighbours) => &neighbours.settings,
        }
    }

    pub(crate) fn threads(&self) -> Option<usize> {
        self.settings().threads
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let settings = args.settings();
    let device = device::open(&settings.device)?;
    let mut model = settings.model.open(&device)?;
    if let Some(pooling) = settings.pooling {
        model.eval.pooling = pooling;
    }
    if let Protocol::Knn(Neighbours { k: Some(k), .. }) = args.protocol {
        model.eval.knn.k = k;
    }
    if let Some(source) = &settings.data {
        model.data.source = source.clone();
    }
    let (name, encoder) = model.encoder(settings.encoder.as_deref())?;
    let (split, [train, test]) = images(settings, &model.data, model.seed)?;
    let data = (&train, &test);
    let pair = Pair::of_encoder(encoder, &model.input, data, (&model.eval, &device))?;
    let (protocol, accuracy) = match args.protocol {
        Protocol::Linear(_) => ("linear", pair.linear(&model.eval)?),
        Protocol::Knn(_) => ("knn", pair.knn(&model.eval)?),
    };
    if protocol == "linear"
        && let Some(line) = cap(pair.images()[0], &model.eval)
    {
        eprintln!("{line}");
    }
    if !settings.json {
        eprintln!("{name}, {split} of {}", model.data.source);
        println!(
            "{protocol}_top1 {:.2}\n{protocol}_top5 {:.2}",
            accuracy.top1, accuracy.top5
        );
        return Ok(ExitCode::SUCCESS);
    }
    let [probed, held_out] = pair.images();
    let mut all = json!({
        "checkpoint": settings.model.path(),
        "encoder": name,
        "data": model.data.source,
        "split": split,
        "seed": model.seed,
        "probed_images": { "train": probed, "held_out": held_out },
        format!("{protocol}_top1"): accuracy.top1,
        format!("{protocol}_top5"): accuracy.top5,
    });
    put_settings(&mut all, &model.eval);
    version(&mut all);
    println!("{all:#}");
    Ok(ExitCode::SUCCESS)
}

/// The name of the split that is measured on, the training images and those of the split.
fn images(
    settings: &Settings,
    data: &DataConfig,
    seed: u64,
) -> Result<(String, [Arc<dyn Dataset>; 2])> {
    let all = data.open(seed)?;
    if let Some(split) = settings.split {
        let images = [all.train, data.open_split(split, seed)?];
        return Ok((split.to_string(), images));
    }
    let (which, images) = all.held_out.ok_or_else(|| {
        let fix =
            "put images into a folder val, or give data with labels, of which a share is held out";
        Error::no_split(&data.source, Split::Val, fix)
    })?;
    Ok((which.to_string(), [all.train, images]))
}
