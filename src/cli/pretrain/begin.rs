//! The folder in which a run starts or continues, and what is printed before its first step.

use std::path::Path;

use mim_core::Result;
use mim_core::comm::{self, Communicator};
use mim_core::files::{self, FolderLock};
use mim_core::train::{Checkpoint, Trainer};

use super::{INIT, describe, finish};
use crate::RunConfig;
use crate::cli::folder;
use crate::cli::options::Options;
use crate::run_config::{HeldOut, Images};

/// The lock of a folder that this process may change, and the checkpoint to resume from.
pub(super) fn found(
    args: &Options,
    run: &Path,
    comm: &dyn Communicator,
) -> Result<(Option<FolderLock>, Option<Checkpoint>)> {
    let changes = args.resume.is_some() || args.overwrite;
    // The others look after rank 0 has prepared the folder.
    let (lock, checkpoint) = comm::rank_0_first(comm, || {
        let lock = match comm.rank() == 0 && changes && run.is_dir() {
            true => Some(FolderLock::take(run)?),
            false => None,
        };
        if lock.is_some() {
            folder::tidy(run)?;
        }
        Ok((lock, args.checkpoint(run)?))
    })?;
    if checkpoint.is_none() && args.resume.is_some() && comm.rank() == 0 {
        let run = run.display();
        eprintln!("there is no checkpoint in {run}, so the run starts from the beginning");
    }
    Ok((lock, checkpoint))
}

/// Says that there is nothing to train, and writes reports that are missing.
pub(super) fn is_finished(run: &Path) -> Result<()> {
    finish::missing(run)?;
    let summary = run.join("summary.json");
    let summary = summary.display();
    eprintln!("the run is finished, see {summary}; use a larger --epochs to train it further");
    Ok(())
}

/// Takes the lock of the run folder, if this process does not have it, and writes the settings.
pub(super) fn begin(
    args: &Options,
    config: &RunConfig,
    run: &Path,
    (lock, checkpoint): (Option<FolderLock>, Option<&Checkpoint>),
) -> Result<FolderLock> {
    let lock = match lock {
        Some(lock) => lock,
        None => {
            files::create_folder(run)?;
            FolderLock::take(run)?
        }
    };
    folder::prepare(run, args.contents(checkpoint.is_some()))?;
    files::write(&run.join("config.toml"), config.to_toml()?)?;
    Ok(lock)
}

/// Prints where the run starts, and warnings.
pub(super) fn say(
    config: &RunConfig,
    run: &Path,
    (started, warnings): (Option<String>, Vec<String>),
    checkpoint: Option<&Checkpoint>,
) -> Result<()> {
    if let Some(started) = &started {
        eprintln!("{started}");
        files::write(&run.join(INIT), format!("{started}\n"))?;
    }
    for line in warnings {
        eprintln!("warning: {line}");
    }
    let Some(checkpoint) = checkpoint else {
        return Ok(());
    };
    let state = checkpoint.state();
    let others = Checkpoint::folders(run)?.into_iter();
    for (_, later) in others.filter(|(step, _)| *step > state.step) {
        let later = later.display();
        eprintln!("warning: {later} is from a later step; the next checkpoint replaces it");
    }
    let epoch = (state.epoch + 1).min(config.train.epochs);
    eprintln!(
        "resuming after step {}, in epoch {epoch} of {}",
        state.step, config.train.epochs
    );
    Ok(())
}

/// Prints what is trained, and on which images.
pub(super) fn announce(config: &RunConfig, trainer: &Trainer, images: &Images, processes: usize) {
    let values: usize = trainer
        .method()
        .stores()
        .iter()
        .map(|(_, store)| store.trainable_values())
        .sum();
    let (trained, held) = (images.train.len(), images.held_out.as_ref());
    let described = describe::images(images, &config.data);
    let notes: Vec<_> = images.notes().into_iter().map(str::to_owned).collect();
    let images = match held {
        Some((HeldOut::Share(_), held)) => format!(
            "{} images from {}, {} of them held out for probes",
            trained + held.len(),
            config.data.source,
            held.len()
        ),
        _ => format!("{trained} images from {}", config.data.source),
    };
    eprintln!(
        "{}: {:.2} M parameters, {images}, {} epochs of {} steps{}, peak lr {:.2e}, into {}",
        config.method,
        values as f64 / 1e6,
        config.train.epochs,
        trainer.iters_per_epoch(),
        match processes {
            1 => String::new(),
            many => format!(" in {many} processes"),
        },
        trainer.peak_lr(),
        trainer.run().display(),
    );
    for line in described.into_iter().chain(notes) {
        eprintln!("{line}");
    }
}
