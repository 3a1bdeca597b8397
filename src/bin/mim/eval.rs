//! `mim eval`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use mim::Pretrained;
use mim_core::Result;
use mim_core::data::{DataSource, Split};
use mim_eval::ProbeResult;

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
    Knn(Settings),
}

/// Settings of a protocol.
#[derive(Debug, clap::Args)]
struct Settings {
    /// A run folder, or one of its checkpoints.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Which encoder, where a method has several: teacher (the default there) or student.
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// Labelled images, as in `mim pretrain`; those of the run by default.
    #[arg(long)]
    data: Option<DataSource>,
    /// Where to run.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Threads; all cores by default.
    #[arg(long)]
    threads: Option<usize>,
}

impl Args {
    fn settings(&self) -> &Settings {
        let (Protocol::Linear(settings) | Protocol::Knn(settings)) = &self.protocol;
        settings
    }

    pub(crate) fn threads(&self) -> Option<usize> {
        self.settings().threads
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let settings = args.settings();
    let device = device::open(&settings.device)?;
    let mut model = Pretrained::open(&settings.checkpoint, &device)?;
    if let Some(source) = &settings.data {
        model.config.data.source = source.clone();
    }
    let source = &model.config.data.source;
    let (train, test) = (source.open(Split::Train)?, source.open(Split::Test)?);
    let ProbeResult {
        linear_top1,
        knn_top1,
        knn_top5,
    } = Probes::new(&model.config, train, test, &device)
        .encoder(model.method.as_ref(), settings.encoder.as_deref())?;
    match args.protocol {
        Protocol::Linear(_) => println!("linear_top1 {linear_top1:.2}"),
        Protocol::Knn(_) => println!("knn_top1 {knn_top1:.2}\nknn_top5 {knn_top5:.2}"),
    }
    Ok(ExitCode::SUCCESS)
}
