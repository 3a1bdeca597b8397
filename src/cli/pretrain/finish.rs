//! What follows the last step: pictures, probes and a summary.

use std::path::Path;
use std::time::Instant;

use crate::RunConfig;
use crate::run_config::Images;
use candle_core::Device;
use mim_core::train::{EpochLog, Trainer};
use mim_core::{Error, Result, files};

use super::rows::Rows;
use super::summary::Summary;
use super::{INIT, picture, probe, stages, tune};
use crate::cli::plot;
use crate::report;

/// Pictures, probes and summary of a finished run. A failure here does not fail the run: it is printed and listed.
pub(super) fn finish(
    config: &RunConfig,
    (trainer, images): (&Trainer, &Images),
    evaluate: bool,
    device: &Device,
    start: Instant,
) {
    let (run, method) = (trainer.run(), trainer.method());
    let mut problems = Vec::new();
    let mut keep = |what: &str, done: Result<()>| {
        if let Err(error) = done {
            problems.push(format!("no {what}: {error}"));
        }
    };
    let log = EpochLog::new(run).read().unwrap_or_else(|error| {
        keep("log", Err(error));
        Vec::new()
    });
    keep("loss.svg", plot::loss(&log, &run.join("loss.svg")));
    if evaluate {
        keep("picture", reconstruction(config, trainer, images));
    }
    let mut summary = Summary::new(&log);
    if evaluate {
        summary.rows = probe::all(config, method, images, device);
        finetuned(&mut summary.rows, (config, run), images, device);
    }
    summary.notes = method.notes();
    summary.stages = stages::read(run);
    if let Ok(started) = files::read(&run.join(INIT)) {
        let started = String::from_utf8_lossy(&started);
        summary
            .notes
            .extend(started.lines().next().map(str::to_owned));
    }
    summary.images = images.train.len();
    summary.seconds = start.elapsed().as_secs_f64();
    summary.rows.problems.splice(0..0, problems);
    let written = summary.write(config, device, &run.join("summary.json"));
    summary.rows.keep("no summary.json", written);
    summary.rows.keep("no report.html", page(run));
    summary.print();
}

/// Writes the loss curve and the page of a finished run if they are missing.
pub(super) fn missing(run: &Path) -> Result<()> {
    let curve = run.join("loss.svg");
    if !curve.exists() {
        plot::loss(&EpochLog::new(run).read()?, &curve)?;
    }
    match run.join("report.html").exists() {
        true => Ok(()),
        false => page(run),
    }
}

/// Writes the page about a run.
fn page(run: &Path) -> Result<()> {
    files::write(&run.join("report.html"), report::of_run(run)?)
}

/// Fine-tunes the pretrained encoder and a random one, if the settings ask for it.
fn finetuned(
    rows: &mut Rows,
    (config, run): (&RunConfig, &Path),
    images: &Images,
    device: &Device,
) {
    let epochs = config.eval.finetune_epochs;
    if epochs == 0 {
        return;
    }
    for at in 0..2 {
        let Some(name) = rows.rows.get(at).map(|row| row.name) else {
            return;
        };
        eprintln!("fine-tuning the {name} for {epochs} epochs (eval.finetune_epochs) ...");
        let figures = tune::tuned(run, (config, images), at == 1, device);
        let figures = rows.keep(&format!("no fine-tuning of {name}"), figures);
        rows.rows[at].finetuned = figures;
    }
}

/// Draws `reconstruction.png` of held-out images, if the method predicts pixels.
fn reconstruction(config: &RunConfig, trainer: &Trainer, images: &Images) -> Result<()> {
    let method = trainer.method();
    let held_out = images.held_out.as_ref().map(|(_, held)| held);
    let drawn = held_out.unwrap_or(&images.train).clone();
    let path = trainer.run().join("reconstruction.png");
    match picture::draw(config, method, drawn, (8, config.train.seed), &path) {
        Err(Error::Unsupported { .. }) => {
            eprintln!("no picture: {} does not predict pixels", method.name());
            Ok(())
        }
        drawn => {
            drawn?;
            eprintln!("drew {}", path.display());
            Ok(())
        }
    }
}
