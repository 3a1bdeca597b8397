//! `mim export`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::Pretrained;
use crate::export::{ExportFormat, export};
use candle_core::Device;
use mim_core::Result;

/// Settings of `mim export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run folder, or one of its checkpoints.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Format: timm (the encoder), hf (for transformers; MAE with its decoder) or mae (everything, under mim's own names).
    #[arg(long, default_value = "timm")]
    format: ExportFormat,
    /// The encoder, if the method has several: teacher (then the default, as in `mim eval`) or student.
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// Output folder; it gets model.safetensors and config.json.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let model = Pretrained::open(&args.checkpoint, &Device::Cpu)?;
    let done = export(&model, args.encoder.as_deref(), args.format, &args.output)?;
    eprintln!("wrote the {}", done.encoder);
    println!("{}", done.loads);
    Ok(ExitCode::SUCCESS)
}
