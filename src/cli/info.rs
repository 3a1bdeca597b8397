//! `mim info`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::outcome;
use crate::init::is_run;
use crate::zoo;
use candle_core::{DType, Device, Tensor};
use mim_core::Result;
use mim_core::train::Checkpoint;
use mim_core::weights::{Guess, TensorHeader, WeightFile, WeightMap, describe, look};

/// Settings of `mim info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file of weights (.safetensors, .pth, .pt, .bin, .npz), a folder with one, a run folder, a checkpoint, or
    /// hf:owner/name[@revision][/file] of the Hugging Face Hub, or zoo:NAME[=PATH].
    path: PathBuf,
    /// Key of the weights in a PyTorch checkpoint, joined by dots; `.` for everything [default: found automatically].
    #[arg(long)]
    key: Option<String>,
    /// Compare each file of a checkpoint, or of all checkpoints of a run, with its checksum.
    #[arg(long, conflicts_with = "key")]
    verify: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = match zoo::find(&args.path)? {
        Some((_, path)) => &path.clone(),
        None => &args.path,
    };
    if args.verify {
        return verify(path);
    }
    if is_run(path) {
        checkpoint(path)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.key.is_none()
        && let Ok(Some(tensors)) = WeightFile::header(path)
    {
        println!("{}", path.display());
        headers(&tensors)?;
        return Ok(ExitCode::SUCCESS);
    }
    match WeightFile::open(path, args.key.as_deref()) {
        Ok(file) => {
            println!("{file}");
            names(&file.weights);
            table(&file.weights);
        }
        // A folder without weights may be a run.
        Err(_) if path.is_dir() => checkpoint(path)?,
        Err(error) => return Err(error),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints whether each checkpoint is whole; exit status 1 if one is not.
fn verify(path: &Path) -> Result<ExitCode> {
    let mut all: Vec<PathBuf> = Checkpoint::folders(path)?
        .into_iter()
        .map(|(_, path)| path)
        .collect();
    all.extend(Some(path.join("best")).filter(|best| best.is_dir()));
    if all.is_empty() {
        all.push(path.to_owned());
    }
    let mut damaged = 0;
    for folder in all {
        let whole = Checkpoint::open(&folder).and_then(|found| {
            found.verify()?;
            Ok(found.has_checksums())
        });
        let folder = folder.display();
        match whole {
            Ok(true) => println!("{folder}  whole"),
            Ok(false) => println!("{folder}  has no checksums; its files have the right lengths"),
            Err(error) => {
                damaged += 1;
                println!("{folder}  damaged: {error}");
            }
        }
    }
    Ok(match damaged {
        0 => ExitCode::SUCCESS,
        _ => outcome::failed(&format!("{damaged} checkpoints are damaged")),
    })
}

/// Prints the header of a file, without its values.
fn headers(tensors: &[TensorHeader]) -> Result<()> {
    let shapes = tensors.iter().map(|tensor| {
        // One broadcast value stands for all, so a large tensor needs no memory.
        let zero = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
        Ok((
            tensor.name.clone(),
            zero.broadcast_as(tensor.shape.as_slice())?,
        ))
    });
    names(&shapes.collect::<Result<WeightMap>>()?);
    let width = tensors
        .iter()
        .map(|tensor| tensor.name.len())
        .max()
        .unwrap_or(0);
    let mut values = 0usize;
    for TensorHeader { name, dtype, shape } in tensors {
        println!("{name:width$}  {:8}  {shape:?}", dtype.to_lowercase());
        values = values.saturating_add(shape.iter().product());
    }
    println!("{} tensors, {values} values", tensors.len());
    Ok(())
}

/// Prints whose names they are, and the network.
fn names(weights: &WeightMap) {
    let (guesses, network) = look(weights);
    let sources: Vec<_> = guesses.iter().map(|guess| guess.source).collect();
    match guesses.first() {
        None => println!("names of no known source"),
        Some(Guess { unknown, .. }) => {
            // Projects that share their names cannot be told apart.
            print!("names of {}", sources[0]);
            if sources.len() > 1 {
                print!(
                    " (also readable as {})",
                    sources[1..sources.len().min(4)].join(", ")
                );
            }
            match unknown.as_slice() {
                [] => println!(),
                [first, ..] => println!(" except {}, such as {first}", unknown.len()),
            }
        }
    }
    if let Some(network) = network {
        println!("looks like {network}");
    }
    println!();
}

fn checkpoint(path: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    let state = checkpoint.state();
    println!("checkpoint  {}", checkpoint.path().display());
    println!("method      {}", state.method);
    println!(
        "step        {} (epoch {}, iteration {})",
        state.step, state.epoch, state.iter
    );
    println!("seed        {}", state.seed);
    let student = checkpoint.weights("student")?;
    if let Some(network) = describe(&student) {
        println!("network     {network}");
    }
    println!("\nstudent");
    table(&student);
    Ok(())
}

/// Name, type and shape of every tensor, and the sum of their sizes.
fn table(weights: &WeightMap) {
    let width = weights.names().map(str::len).max().unwrap_or(0);
    let mut values = 0;
    for (name, tensor) in weights.iter() {
        println!(
            "{name:width$}  {:4}  {:?}",
            tensor.dtype().as_str(),
            tensor.dims()
        );
        values += tensor.elem_count();
    }
    println!("{} tensors, {values} values", weights.len());
}
