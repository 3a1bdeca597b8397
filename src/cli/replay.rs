//! `mim replay`.

use std::path::PathBuf;
use std::process::ExitCode;

use mim_core::train::{BatchImage, Checkpoint, FailedStep, Origin, Replay, ReplayedBatch, Trainer};
use mim_core::{Error, Result};

use crate::cli::device;
use crate::cli::pretrain::INIT;
use crate::{RunConfig, run_config};

/// Maximum number of names that are listed.
const LISTED: usize = 8;

/// Settings of `mim replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of a run that ended because a loss or gradient norm was not finite.
    run: PathBuf,
    /// Checkpoint from which the steps up to the failed one are repeated [default: the parameters that the run saved
    /// before that step, or for a run on a GPU, which saves none, its newest checkpoint].
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<PathBuf>,
    /// Device.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Number of threads [default: all cores].
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let failed = FailedStep::open(&args.run)?;
    let config = RunConfig::from_table(run_config::read_run(&args.run)?)?;
    let device = device::open(&args.device)?;
    let images = config.data.open(config.train.seed)?.train;
    let method = config.build(&device)?;
    let loading = config.data.loading(config.train.batch_size);
    let folder = FailedStep::folder(&args.run);
    let mut trainer = Trainer::new(method, (images, loading), config.train.clone(), folder)?;
    let from = args.start(&failed)?;
    print!("{}", heading(&failed, from.as_ref()));
    let replay = trainer.replay(&failed, from.as_ref())?;
    print!("{}", text(&failed, &replay));
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// The checkpoint that the replay starts from; `None` means the initial weights.
    fn start(&self, failed: &FailedStep) -> Result<Option<Checkpoint>> {
        if let Some(path) = &self.from {
            return Checkpoint::open(path).map(Some);
        }
        if failed.kept {
            return Checkpoint::open(FailedStep::folder(&self.run)).map(Some);
        }
        let newest = Checkpoint::latest(&self.run)?;
        if newest.is_none() && self.run.join(INIT).exists() {
            let what =
                "the run has no checkpoint before the step, and did not start from random weights";
            let fix = "train again on the CPU, where a run saves the parameters before such a step";
            return Err(Error::format(&self.run, what, fix));
        }
        Ok(newest)
    }
}

/// Which step failed, and where the replay starts.
fn heading(failed: &FailedStep, from: Option<&Checkpoint>) -> String {
    let step = format!(
        "step {} (step {} of epoch {}, seed {}, learning rate {:.3e}): {} was not finite\n",
        failed.step,
        failed.iter,
        failed.epoch + 1,
        failed.seed,
        failed.lr,
        failed.what
    );
    let start = match from {
        Some(from) => (from.state().step, from.path().display().to_string()),
        None => (0, "the initial weights".to_owned()),
    };
    let again = match failed.step.saturating_sub(start.0) {
        0 => String::new(),
        steps => format!(", and {steps} steps from there"),
    };
    format!("{step}from {}{again}\n", start.1)
}

/// All findings.
fn text(failed: &FailedStep, replay: &Replay) -> String {
    let (all, bad) = &replay.parameters;
    let mut text = format!("parameters before the step: {}\n", not_finite(*all, bad));
    let (all, bad) = &replay.buffers;
    if !bad.is_empty() {
        let found = not_finite(*all, bad);
        text += &format!("buffers: {found}; the failed step may have changed them\n");
    }
    let several = replay.batches.len() > 1;
    for batch in &replay.batches {
        let place = match several {
            true => format!(", process {}, pass {}", batch.rank, batch.micro),
            false => String::new(),
        };
        text += &format!("batch of {} images{place}\n", batch.images.len());
        text += &of_batch(batch);
    }
    let own = replay.batches.iter().filter(|batch| batch.rank == 0);
    let images: Vec<_> = own.map(|batch| batch.images.clone()).collect();
    if images != failed.batches {
        text += "warning: these are not the images of the run: the data has changed since\n";
    }
    if replay.batches.iter().all(|batch| batch.origin.is_none()) {
        text += "everything is finite this time: the run had another device, other data, another version, or statistics over several processes\n";
    }
    text
}

fn of_batch(batch: &ReplayedBatch) -> String {
    let mut text = String::new();
    for (name, value, weight) in &batch.terms {
        let weight = match *weight {
            1. => String::new(),
            weight => format!(" x {weight}"),
        };
        text += &format!("  term {name}: {value}{weight}\n");
    }
    let (all, bad, norm) = &batch.gradients;
    text += &format!("  loss: {}\n  gradient norm: {norm}\n", batch.loss);
    text += &format!("  gradients: {}\n", not_finite(*all, bad));
    match &batch.origin {
        None => {}
        Some(Origin::Intermediate { name, dims, rows }) => {
            text += &format!(
                "  first values that are not finite: {name} {dims:?}, {}\n",
                of_images(rows, batch)
            );
            text += &listed(rows, &batch.images);
        }
        Some(Origin::Alone { rows, refused }) => {
            let refused = match refused {
                0 => String::new(),
                some => format!(" ({some} cannot run alone)"),
            };
            let images = of_images(rows, batch);
            text += &format!("  images run one at a time, with other draws: {images}{refused}\n");
            text += &listed(rows, &batch.images);
        }
    }
    text
}

/// How many images of a batch are affected, and what that suggests.
fn of_images(rows: &[usize], batch: &ReplayedBatch) -> String {
    match (rows.len(), batch.images.len()) {
        (0, _) => "of no single image".to_owned(),
        (some, all) if some == all => {
            format!("of all {all} images, so check parameters and learning rate")
        }
        (some, all) => format!("of {some} of {all} images"),
    }
}

/// The first few images.
fn listed(rows: &[usize], images: &[BatchImage]) -> String {
    if rows.len() == images.len() {
        return String::new();
    }
    let mut text = String::new();
    for row in rows.iter().take(LISTED) {
        if let Some(image) = images.get(*row) {
            text += &format!("    image {} at place {row}: {}\n", image.index, image.name);
        }
    }
    match rows.len().saturating_sub(LISTED) {
        0 => text,
        more => text + &format!("    and {more} more\n"),
    }
}

/// How many tensors are not finite, and the first of them.
fn not_finite(all: usize, bad: &[String]) -> String {
    match bad.first() {
        None => format!("all {all} tensors are finite"),
        Some(first) => format!(
            "{} of {all} tensors are not finite, first {first}",
            bad.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_terms_are_named() {
        let image = |index| BatchImage {
            index,
            name: format!("{index}.png"),
        };
        let mut batch = ReplayedBatch {
            rank: 0,
            micro: 0,
            images: vec![image(7), image(3)],
            terms: vec![("pixel".to_owned(), f64::NAN, 0.5)],
            loss: f64::NAN,
            gradients: (2, vec!["a".to_owned()], f64::NAN),
            origin: Some(Origin::Intermediate {
                name: "pred".to_owned(),
                dims: vec![2, 4],
                rows: vec![1],
            }),
        };
        let text = of_batch(&batch);
        for wanted in [
            "term pixel: NaN x 0.5",
            "1 of 2 tensors are not finite, first a",
            "pred [2, 4], of 1 of 2 images",
            "image 3 at place 1: 3.png",
        ] {
            assert!(text.contains(wanted), "{text}");
        }
        batch.origin = Some(Origin::Alone {
            rows: vec![0, 1],
            refused: 0,
        });
        let text = of_batch(&batch);
        assert!(
            text.contains("check parameters") && !text.contains("7.png"),
            "{text}"
        );
    }
}
