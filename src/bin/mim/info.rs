//! `mim info`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mim_core::Result;
use mim_core::train::Checkpoint;
use mim_core::weights::WeightMap;

/// Settings of `mim info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A .safetensors file, a checkpoint, a run folder, a folder with model.safetensors, or
    /// hf:owner/name[@revision][/file] of the Hugging Face Hub.
    path: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = &args.path;
    if path.is_dir() && !path.join("model.safetensors").exists() {
        checkpoint(path)?;
    } else {
        table(&WeightMap::read(path)?);
    }
    Ok(ExitCode::SUCCESS)
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
    println!("\nstudent");
    table(&checkpoint.weights("student")?);
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
