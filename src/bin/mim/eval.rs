//! `mim eval`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use mim::backbone::Backbone;
use mim_core::Result;
use mim_core::data::{DataSource, Split};
use mim_eval::{Pooling, ProbeResult};

use crate::device;
use crate::pretrain::probe::Probes;

/// Settings of `mim eval`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    protocol: Protocol,
}

#[derive(Debug, Subcommand)]
enum Protocol {
    /// A linear classifier on frozen features: multinomial logistic regression, top-1 in percent.
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
    /// A run folder, one of its checkpoints, or zoo:NAME[=PATH] for published weights (`mim zoo`).
    #[arg(long)]
    checkpoint: PathBuf,
    /// Which encoder, where a method has several: teacher (the default there) or student.
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// Labelled images, as in `mim pretrain`; those of the run by default (`embedded` for published weights).
    #[arg(long)]
    data: Option<DataSource>,
    /// What becomes the feature: mean (of the patches) or cls; that of the run's evaluation by default.
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
        "cls" => Ok(Pooling::Cls),
        _ => Err("use mean or cls".to_owned()),
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
    let mut model = Backbone::open(&settings.checkpoint, &device)?;
    if let Some(pooling) = settings.pooling {
        model.eval.pooling = pooling;
    }
    if let Protocol::Knn(Neighbours { k: Some(k), .. }) = args.protocol {
        model.eval.knn.k = k;
    }
    let encoder = model.encoder(settings.encoder.as_deref())?;
    let source = settings.data.as_ref().unwrap_or(&model.data);
    let (train, test) = (source.open(Split::Train)?, source.open(Split::Test)?);
    let ProbeResult {
        linear_top1,
        knn_top1,
        knn_top5,
    } = Probes::new(&model.eval, train, test, &device).encoder(encoder, &model.input)?;
    match args.protocol {
        Protocol::Linear(_) => println!("linear_top1 {linear_top1:.2}"),
        Protocol::Knn(_) => println!("knn_top1 {knn_top1:.2}\nknn_top5 {knn_top5:.2}"),
    }
    Ok(ExitCode::SUCCESS)
}
