//! Writing checkpoints.

use std::path::{Path, PathBuf};

use super::state::{Checksums, STATE, Saved, TrainState, checksum};
use super::{BEST, FOLDER, steps};
use crate::optim::Optimizer;
use crate::params::ParamStore;
use crate::weights::WeightMap;
use crate::{Error, Method, Result, files};

/// Writes `checkpoints/step-N` in `run`, and removes others: those of later steps, which belong to an abandoned course of
/// the run, and older ones, so that `keep` remain.
///
/// # Errors
///
/// [`Error::Io`] if something cannot be written; the older checkpoints stay.
pub(in crate::train) fn save(
    run: &Path,
    state: &TrainState,
    method: &dyn Method,
    optimizer: &dyn Optimizer,
    keep: usize,
) -> Result<PathBuf> {
    let folder = run.join(FOLDER);
    let path = folder.join(format!("step-{}", state.step));
    write(&path, state, method, optimizer)?;
    let all = steps(&folder)?.into_iter();
    for (_, later) in all.filter(|(step, _)| *step > state.step) {
        files::remove(&later)?;
    }
    prune(run, state.step, keep)?;
    Ok(path)
}

/// Removes the oldest checkpoints before the one of `step`, so that `keep` remain.
///
/// # Errors
///
/// [`Error::Io`] if one cannot be removed.
pub(in crate::train) fn prune(run: &Path, step: usize, keep: usize) -> Result<()> {
    let mut earlier = steps(&run.join(FOLDER))?;
    earlier.retain(|(other, _)| *other < step);
    let surplus = (earlier.len() + 1).saturating_sub(keep);
    let oldest = earlier.iter().take(surplus);
    oldest
        .map(|(_, path)| path)
        .try_for_each(|path| files::remove(path))
}

/// Writes `best` in `run`, and replaces an earlier one.
///
/// # Errors
///
/// [`Error::Io`] if something cannot be written; the one that was there stays.
pub(in crate::train) fn keep(
    run: &Path,
    state: &TrainState,
    method: &dyn Method,
    optimizer: &dyn Optimizer,
) -> Result<()> {
    write(&run.join(BEST), state, method, optimizer)
}

/// Writes a checkpoint at `path`, whole or not at all; `state.json` comes last.
///
/// # Errors
///
/// [`Error::Io`] if something cannot be written; what was there stays.
pub(in crate::train) fn write(
    path: &Path,
    state: &TrainState,
    method: &dyn Method,
    optimizer: &dyn Optimizer,
) -> Result<()> {
    if let Some(around) = path.parent() {
        files::create_folder(around)?;
    }
    files::replace_folder(path, |new| {
        let mut sums = Checksums::new();
        for (name, store) in method.stores() {
            write_weights(new, name, &store_weights(store), &mut sums)?;
        }
        write_weights(new, "optimizer", &optimizer.state()?, &mut sums)?;
        let saved = Saved {
            state: state.clone(),
            files: Some(sums),
        };
        let file = new.join(STATE);
        files::write_new(&file, saved.to_text(&file)?)
    })
}

fn write_weights(
    folder: &Path,
    name: &str,
    weights: &WeightMap,
    sums: &mut Checksums,
) -> Result<()> {
    let file = format!("{name}.safetensors");
    let path = folder.join(&file);
    let bytes = weights.to_bytes(Some(("format", "mim")));
    let bytes = bytes.map_err(|what| Error::format(&path, what, "report this as a bug"))?;
    // The checksum costs almost no time, since the disk is slower.
    let (written, sum) = rayon::join(|| files::write_new(&path, &bytes), || checksum(&bytes));
    written?;
    sums.insert(file, sum);
    Ok(())
}

/// The current values of all entries of a store.
fn store_weights(store: &ParamStore) -> WeightMap {
    let vars = store.vars().into_iter();
    vars.map(|(name, var)| (name, var.as_detached_tensor()))
        .collect()
}
