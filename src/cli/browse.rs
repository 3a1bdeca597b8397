//! `mim browse`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use mim_core::data::{Loader, LoaderConfig};
use mim_core::{Error, Result, View};
use mim_eval::{save_png, sheet};

use crate::cli::pretrain;
use crate::cli::{drawing, folder};

/// Settings of `mim browse`: those of `mim pretrain`, but nothing is trained.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    run: pretrain::Args,
    /// The picture to write.
    #[arg(long, default_value = "batch.png")]
    output: PathBuf,
    /// Number of images to draw.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    /// The epoch whose views are drawn, from 0. Views may change during a run.
    #[arg(long, default_value_t = 0)]
    epoch: usize,
}

impl Args {
    /// Threads asked for.
    pub(crate) fn threads(&self) -> Option<usize> {
        self.run.options.threads
    }
}

/// Draws the first images of an epoch as the method gets them: one row per image, one column per view, and the first
/// view as a training step masks it.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.run.config()?;
    folder::check_parent(&args.output)?;
    let method = config.build(&Device::Cpu)?;
    let images = config.data.open(config.train.seed)?;
    let count = usize::from(args.count).min(images.train.len());
    let loading = LoaderConfig {
        batch_size: count,
        workers: 0,
        ..LoaderConfig::default()
    };
    let plan = method.views(args.epoch);
    let loader = Loader::new(images.train, plan, loading, config.train.seed)?;
    let batch = loader.epoch(args.epoch, 0)?.next().ok_or_else(|| {
        let fix = "give images with --data";
        Error::format(&args.output, "there is no image to draw", fix)
    })??;
    let columns = batch.views.iter().zip(1..);
    let columns = columns.map(|(view, number)| column(view, number));
    let mut columns = columns.collect::<Result<Vec<_>>>()?;
    // Tokenizers and classifiers hide nothing.
    if let Ok(masked) = drawing::masked(method.as_ref(), &batch, config.train.seed) {
        columns.push(masked);
    }
    let columns = drawing::shown(columns, &config.data)?;
    save_png(&sheet(&columns)?, &args.output)?;
    println!("{}", args.output.display());
    Ok(ExitCode::SUCCESS)
}

/// A view with its heading.
fn column(view: &View, number: usize) -> Result<(String, Tensor)> {
    let (height, width) = view.size();
    Ok((format!("view {number}: {height}x{width}"), view.unit()?))
}
