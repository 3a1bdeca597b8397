//! `mim info`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mim_core::Result;
use mim_core::train::Checkpoint;
use mim_core::weights::{Guess, WeightFile, WeightMap, describe, look};

/// Settings of `mim info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file of weights (.safetensors, .pth, .pt, .bin, .npz), a folder with one, a run folder, a checkpoint, or
    /// hf:owner/name[@revision][/file] of the Hugging Face Hub.
    path: PathBuf,
    /// The key of the weights in a checkpoint of PyTorch (several joined by dots; `.` for all); found if not given.
    #[arg(long)]
    key: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = &args.path;
    if path.join("state.json").exists() || path.join("checkpoints").exists() {
        checkpoint(path)?;
        return Ok(ExitCode::SUCCESS);
    }
    match WeightFile::open(path, args.key.as_deref()) {
        Ok(file) => {
            println!("{file}");
            names(&file.weights);
            table(&file.weights);
        }
        // A folder without weights may be meant as a run.
        Err(_) if path.is_dir() => checkpoint(path)?,
        Err(error) => return Err(error),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whose names they are, and of what network.
fn names(weights: &WeightMap) {
    let (guesses, network) = look(weights);
    let sources: Vec<_> = guesses.iter().map(|guess| guess.source).collect();
    match guesses.first() {
        None => println!("names of no source that is known"),
        Some(Guess { unknown, .. }) => {
            // Projects that copied each other's names cannot be told apart by them.
            print!("names of {}", sources[..sources.len().min(4)].join(", "));
            match unknown.as_slice() {
                [] => println!(),
                [first, ..] => println!(" but for {}, {first} for instance", unknown.len()),
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
