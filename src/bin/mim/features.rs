//! `mim features`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Tensor;
use mim::backbone::Backbone;
use mim_core::data::{DataSource, Split};
use mim_core::weights::WeightMap;
use mim_core::{Error, Result};
use mim_eval::{Pooling, features};

use crate::device;
use crate::eval::pooling;

/// Settings of `mim features`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run folder, one of its checkpoints, or zoo:NAME[=PATH] for published weights (`mim zoo`).
    #[arg(long)]
    checkpoint: PathBuf,
    /// Images, with or without labels: embedded, PATH, idx:PATH, folder:PATH or cifar:PATH; those of the run by default.
    #[arg(long)]
    data: Option<DataSource>,
    /// Which images of the data: train or test.
    #[arg(long, default_value = "train", value_parser = split)]
    split: Split,
    /// The file to write, a row an image in the order of the data: .npy, or .safetensors with `features` and `labels`.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Which encoder, where a method has several: teacher (the default there) or student.
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// What becomes the feature: mean (of the patches) or cls; that of the run's evaluation by default.
    #[arg(long, value_parser = pooling)]
    pooling: Option<Pooling>,
    /// Where to run.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Threads; all cores by default.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

fn split(name: &str) -> std::result::Result<Split, String> {
    match name {
        "train" => Ok(Split::Train),
        "test" => Ok(Split::Test),
        _ => Err("use train or test".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kind = args
        .output
        .extension()
        .and_then(|extension| extension.to_str());
    if !matches!(kind, Some("npy" | "safetensors")) {
        return Err(Error::format(
            &args.output,
            "features are written as .npy or .safetensors",
            "give the file one of these endings",
        ));
    }
    let device = device::open(&args.device)?;
    let mut model = Backbone::open(&args.checkpoint, &device)?;
    if let Some(pooling) = args.pooling {
        model.eval.pooling = pooling;
    }
    let data = args.data.as_ref().unwrap_or(&model.data).open(args.split)?;
    let encoder = model.encoder(args.encoder.as_deref())?;
    let input = &model.input;
    let (rows, labels) = features(encoder, data, input.size, &input.norm, &device, &model.eval)?;
    let shape = rows.dims().to_vec();
    match kind {
        Some("npy") => rows.write_npy(&args.output)?,
        _ => {
            let mut out = WeightMap::default();
            out.insert("features", rows);
            if let Some(labels) = labels {
                let labels: Vec<i64> = labels.into_iter().map(i64::from).collect();
                out.insert("labels", Tensor::new(labels, &candle_core::Device::Cpu)?);
            }
            out.write(&args.output, None)?;
        }
    }
    println!("{} {shape:?}", args.output.display());
    Ok(ExitCode::SUCCESS)
}
