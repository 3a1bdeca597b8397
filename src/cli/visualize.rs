//! `mim visualize`.

use std::path::PathBuf;
use std::process::ExitCode;

use mim::Pretrained;
use mim_core::Result;
use mim_core::data::DataSource;

use crate::device;
use crate::pretrain::picture;

/// Settings of `mim visualize`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run folder, or one of its checkpoints.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Images, as in `mim pretrain`; test images of the run by default.
    #[arg(long)]
    images: Option<DataSource>,
    /// The picture to write.
    #[arg(long, default_value = "reconstruction.png")]
    output: PathBuf,
    /// Images to draw, one a row.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    /// Seed of the masks.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to run.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let device = device::open(&args.device)?;
    let model = Pretrained::open(&args.checkpoint, &device)?;
    let source = args.images.as_ref().unwrap_or(&model.config.data.source);
    let images = picture::images(source)?;
    let size = (usize::from(args.count), args.seed);
    picture::draw(
        &model.config,
        model.method.as_ref(),
        images,
        size,
        &args.output,
    )?;
    println!("{}", args.output.display());
    Ok(ExitCode::SUCCESS)
}
