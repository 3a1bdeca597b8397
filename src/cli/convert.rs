//! `mim convert`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::init::{is_run, read_weights};
use candle_core::DType;
use mim_core::weights::{Guess, Source, WeightFile, WeightMap, is_encoder};
use mim_core::{Error, Result};

/// Default maximum size of a file in bytes, as in transformers.
const SHARD: usize = 5_000_000_000;

/// Settings of `mim convert`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file or folder of weights: .safetensors, .pth, .pt, .bin, .npz, an index of several files, or a run folder.
    input: PathBuf,
    /// Output: a .safetensors file, or a folder, which gets model.safetensors.
    output: PathBuf,
    /// Project whose names the input has; `mim info` says whose they look like.
    #[arg(long, value_name = "SOURCE")]
    from: String,
    /// Project whose names the output gets; `mae` stands for mim's own names.
    #[arg(long, value_name = "SOURCE", default_value = "mae")]
    to: String,
    /// Key of the weights in a PyTorch checkpoint [default: found automatically].
    #[arg(long)]
    key: Option<String>,
    /// Leave out decoders and heads.
    #[arg(long)]
    encoder_only: bool,
    /// Type of the numbers: f32, f16 or bf16 [default: unchanged].
    #[arg(long, value_parser = dtype)]
    dtype: Option<DType>,
    /// Maximum size of a file in a folder, in bytes; larger weights are split, with an index.
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
    let theirs = read(args)?;
    let ignored = check_names(args, &theirs)?;
    say("are not carried over", &args.from, &ignored);
    let mut ours = from.import(&theirs)?;
    if args.encoder_only {
        // Their models have no mask token and refuse one.
        let timm = to.name().contains("timm");
        let kept = |name: &str| is_encoder(&ours, name) && !(timm && name == "mask_token");
        let (kept, left): (Vec<_>, Vec<_>) = ours.iter().partition(|(name, _)| kept(name));
        let left: Vec<_> = left.into_iter().map(|(name, _)| name.to_owned()).collect();
        say("do not belong to the encoder", "mae", &left);
        ours = kept
            .into_iter()
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

/// The weights of the input: a file, or a run in mim's own names.
fn read(args: &Args) -> Result<WeightMap> {
    if !is_run(&args.input) {
        let file = WeightFile::open(&args.input, args.key.as_deref())?;
        eprintln!("{file}");
        return Ok(file.weights);
    }
    if args.from != "mae" {
        let why = "a run uses mim's own names";
        return Err(Error::config(
            "command line",
            "--from",
            &args.from,
            why,
            "use --from mae",
        ));
    }
    let (weights, line) = read_weights(&args.input, None, None)?;
    eprintln!("{line}");
    Ok(weights)
}

/// Says how many names of a source share a fate, and which.
fn say(fate: &str, source: &str, names: &[String]) {
    if !names.is_empty() {
        let first: Vec<_> = names.iter().take(5).cloned().collect();
        let more = if names.len() > first.len() {
            ", ..."
        } else {
            ""
        };
        let count = names.len();
        eprintln!(
            "{count} names of {source} {fate}: {}{more}",
            first.join(", ")
        );
    }
}

/// Refuses names of another source, which would be written unchanged. Returns the names that the source ignores.
fn check_names(args: &Args, weights: &WeightMap) -> Result<Vec<String>> {
    let guess = Guess::of_source(&args.from, weights)?;
    let best = Guess::best(weights);
    let better = best.first().is_some_and(Guess::is_complete) && !guess.is_complete();
    if guess.unknown.len() < weights.len() && !better {
        say("are not known and are kept", &args.from, &guess.unknown);
        return Ok(guess.ignored);
    }
    let best: Vec<_> = best.into_iter().map(|guess| guess.source).collect();
    let why = match best.as_slice() {
        [] => "none of its names is known".to_owned(),
        best => format!("its names look like those of {}", best.join(", ")),
    };
    let fix = "name the source of the weights";
    Err(Error::config(
        "command line",
        "--from",
        &args.from,
        why,
        fix,
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
            "end the name in .safetensors, or give a folder",
        ));
    }
    weights.write(&args.output, Some(("format", "pt")))
}
