//! Fine-tuning at the end of a run: its encoder against the same network from scratch.

use std::path::Path;

use crate::RunConfig;
use crate::cli::finetune::Trained;
use crate::cli::folder::{self, Contents};
use crate::cli::progress::Progress;
use crate::run_config::Images;
use candle_core::Device;
use mim_core::train::Trainer;
use mim_core::{Error, Result, files, settings};
use mim_eval::{Summary, classify};
use toml::{Table, Value};

/// The folders of both in the run folder, and their names.
pub(crate) const FOLDERS: [&str; 2] = ["finetune", "scratch"];

/// Trains on the labels of the run's images for `eval.finetune_epochs`, from the run's encoder or from random weights,
/// and measures the network on the images that were held out.
pub(super) fn tuned(
    run: &Path,
    (config, images): (&RunConfig, &Images),
    scratch: bool,
    device: &Device,
) -> Result<Summary> {
    let Some((_, held_out)) = &images.held_out else {
        let (what, fix) = ("measuring a fine-tuned encoder", "set data.val_share");
        return Err(Error::unsupported(what, "no images were held out", fix));
    };
    let start = Trained::of_run(run.to_owned(), None)?;
    let own = settings_of(start.settings(None, None)?, config)?;
    let method = own.build(device)?;
    if let Some(init) = start.init(scratch, &own)? {
        init.apply(&own, method.as_ref())?;
    }
    let path = run.join(FOLDERS[usize::from(scratch)]);
    folder::prepare(&path, Contents::Removed)?;
    files::write(&path.join("config.toml"), &own.to_toml()?)?;
    let loading = own.data.loading(own.train.batch_size);
    let data = (images.train.clone(), loading);
    let trainer = Trainer::new(method, data, own.train.clone(), &path)?;
    let mut trainer = trainer.settings(own.to_json()?);
    let mut progress = Progress::new(own.train.epochs, true);
    trainer.train(&mut progress)?;
    progress.finish();
    let method = trainer.method();
    let classifier = method.classifier().ok_or_else(|| {
        let (what, why) = (
            "measuring a fine-tuned encoder",
            "the method has no classifier",
        );
        Error::unsupported(what, why, "report this as a bug")
    })?;
    let scores = classify(
        classifier,
        held_out.clone(),
        method.input(),
        device,
        &own.eval,
    )?;
    scores.summary(own.train.seed)
}

/// The settings of fine-tuning, with epochs, seed and precision of the run.
fn settings_of(mut table: Table, run: &RunConfig) -> Result<RunConfig> {
    let epochs = i64::try_from(run.eval.finetune_epochs).unwrap_or(i64::MAX);
    let seed = i64::try_from(run.train.seed).unwrap_or(i64::MAX);
    let train = [
        ("epochs", epochs.into()),
        ("seed", seed.into()),
        ("keep_checkpoints", 1.into()),
        ("checkpoint_every", epochs.into()),
    ];
    let train = train.map(|(key, value): (&str, Value)| (key.to_owned(), value));
    let mut train = Table::from_iter(train);
    let own = settings::to_table(&run.train)?;
    train.extend(own.into_iter().filter(|(key, _)| key == "precision"));
    let train = Table::from_iter([("train".to_owned(), Value::Table(train))]);
    settings::overlay(&mut table, train);
    RunConfig::from_table(table)
}
