//! `mim convert`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::DType;
use mim_core::weights::{Guess, Source, WeightFile, WeightMap, is_encoder};
use mim_core::{Error, Result};

/// Bytes of a file at most, unless another size is asked for: transformers' own.
const SHARD: usize = 5_000_000_000;

/// Settings of `mim convert`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file or folder of weights: .safetensors, .pth, .pt, .bin, .npz, or an index of several files.
    input: PathBuf,
    /// What to write: a .safetensors file, or a folder, which gets model.safetensors.
    output: PathBuf,
    /// Whose names the input has (`mim info` says whose they look like).
    #[arg(long, value_name = "SOURCE")]
    from: String,
    /// Whose names the output gets; `mae` is mim's own naming.
    #[arg(long, value_name = "SOURCE", default_value = "mae")]
    to: String,
    /// The key of the weights in a checkpoint of PyTorch; found if not given.
    #[arg(long)]
    key: Option<String>,
    /// Leave out decoders and heads.
    #[arg(long)]
    encoder_only: bool,
    /// Type of the numbers: f32, f16 or bf16; as they are if not given.
    #[arg(long, value_parser = dtype)]
    dtype: Option<DType>,
    /// Bytes of a file at most, in a folder; larger weights become several with an index.
    #[arg(long, value_name = "BYTES", default_value_t = SHARD)]
    shard_size: usize,
}

fn dtype(name: &str) -> Result<DType, String> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err("use f32, f16 or bf16".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (from, to) = (Source::named(&args.from)?, Source::named(&args.to)?);
    let file = WeightFile::open(&args.input, args.key.as_deref())?;
    eprintln!("{file}");
    let mut ours = from.import(&file.weights)?;
    check_names(args, &file.weights)?;
    if args.encoder_only {
        let kept = ours.iter().filter(|(name, _)| is_encoder(&ours, name));
        ours = kept
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .collect();
    }
    let mut theirs = to.export(&ours)?;
    if let Some(dtype) = args.dtype {
        theirs = theirs.cast(dtype)?;
    }
    write(args, &theirs)?;
    println!(
        "{}: {} tensors, {} bytes, names of {}",
        args.output.display(),
        theirs.len(),
        theirs.bytes(),
        to.name()
    );
    Ok(ExitCode::SUCCESS)
}

/// Refuses names of another source: they would be written as they are.
fn check_names(args: &Args, weights: &WeightMap) -> Result<()> {
    let unknown = Guess::of_source(&args.from, weights)?.unknown;
    if unknown.len() < weights.len() {
        if !unknown.is_empty() {
            let first = unknown
                .iter()
                .take(5)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            eprintln!(
                "{} names are not known to {} and are kept: {first}",
                unknown.len(),
                args.from
            );
        }
        return Ok(());
    }
    let best: Vec<_> = Guess::best(weights)
        .into_iter()
        .map(|guess| guess.source)
        .collect();
    let why = match best.as_slice() {
        [] => "none of its names is known".to_owned(),
        best => format!("its names look like those of {}", best.join(", ")),
    };
    Err(Error::config(
        "command line",
        "--from",
        &args.from,
        why,
        "name the source of the weights",
    ))
}

fn write(args: &Args, weights: &WeightMap) -> Result<()> {
    if args.output.extension().is_none() || args.output.is_dir() {
        return weights.write_folder(&args.output, args.shard_size);
    }
    if args
        .output
        .extension()
        .is_some_and(|extension| extension != "safetensors")
    {
        return Err(Error::format(
            &args.output,
            "only .safetensors files are written",
            "give such a name, or a folder",
        ));
    }
    weights.write(&args.output, Some(("format", "pt")))
}
