//! A run that was cut and resumed equals one that was not, byte by byte.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use candle_core::Device;
use mim_core::data::{DataSource, Dataset, LoaderConfig, Split};
use mim_core::train::{Checkpoint, EpochLog, Observer, Outcome, StepReport, TrainConfig, Trainer};
use mim_methods::registry::{Entry, METHODS};

const RECIPE: &str = "
encoder = { image_size = 28, patch_size = 7, embed_dim = 16, depth = 1, num_heads = 2 }
";

const ONE_VIEW: &str = "views = { shared = [{ type = \"horizontal_flip\" }], views = [[]] }";
const TWO_VIEWS: &str = "views = { views = [
    [{ type = \"horizontal_flip\" }, { type = \"random_resized_crop\", size = 28 }],
    [{ type = \"random_resized_crop\", size = 28 }, { type = \"solarize\" }],
] }";

fn settings(entry: &Entry) -> toml::Table {
    let own = match entry.name {
        "mae" => "decoder = { embed_dim = 8, depth = 1, num_heads = 2 }",
        "simmim" => "mask_patch_size = 14",
        "bootmae" => {
            "masker = { hidden = { type = \"patches\", count = 10 }, blocks = { hidden = { type = \"patches\", count = 8 }, min_block = 2, max_block = 6 } }
             decoder = { embed_dim = 12, depth = 1, num_heads = 5 }
             feature_decoder = { embed_dim = 16, depth = 1, num_heads = 2 }"
        }
        "sim" => {
            "masker = { hidden = { type = \"ratio\", ratio = 0.6 }, min_block = 2 }
                  projector = { embed_dim = 12, depth = 1, num_heads = 2 }
                  predictor = { depth = 1, num_heads = 2 }"
        }
        "cmae" => {
            "mask_patch_size = 14
             decoder = { embed_dim = 8, depth = 1, num_heads = 2 }
             feature_decoder = { embed_dim = 8, depth = 1, num_heads = 2 }
             projector = { hidden_dim = 16, out_dim = 8 }
             predictor = { hidden_dim = 16, out_dim = 8 }"
        }
        other => panic!("give {other} a tiny size here"),
    };
    let views = match entry.name {
        "sim" | "cmae" => TWO_VIEWS,
        _ => ONE_VIEW,
    };
    entry
        .resolve(format!("{own}{RECIPE}{views}").parse().unwrap())
        .unwrap()
}

fn trainer(entry: &Entry, run: &Path, workers: usize) -> Trainer {
    let train = TrainConfig {
        epochs: 2,
        batch_size: 250,
        accum_iter: 2,
        lr: Some(1e-3),
        ..TrainConfig::default()
    };
    let data: Arc<dyn Dataset> = DataSource::Embedded.open(Split::Train).unwrap();
    let loading = LoaderConfig {
        workers,
        ..LoaderConfig::default()
    };
    let method = entry.build(settings(entry), &Device::Cpu, 5).unwrap();
    Trainer::new(
        method,
        (data, loading),
        train,
        run,
        serde_json::json!({ "seed": 5 }),
    )
    .unwrap()
}

/// Ends the run after a number of steps.
struct StopAfter(usize);

impl Observer for StopAfter {
    fn step(&mut self, _report: &StepReport) {
        self.0 = self.0.saturating_sub(1);
    }

    fn stop(&self) -> bool {
        self.0 == 0
    }
}

/// Names and bytes of a checkpoint.
fn content(run: &Path, step: usize) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = run.join(format!("checkpoints/step-{step}"));
    let entries = fs::read_dir(&folder)
        .unwrap()
        .collect::<io::Result<Vec<_>>>()
        .unwrap();
    let mut files: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                PathBuf::from(entry.file_name()),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    files
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    for entry in METHODS {
        let dir = tempfile::tempdir().unwrap();
        let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
        for run in [&whole, &cut] {
            fs::create_dir(run).unwrap();
        }
        assert_eq!(
            trainer(entry, &whole, 0).train(&mut ()).unwrap(),
            Outcome::Finished
        );
        // Cut in the middle of an epoch, then at its end, with other numbers of workers.
        let stopped = trainer(entry, &cut, 2).train(&mut StopAfter(1)).unwrap();
        assert_eq!(stopped, Outcome::Stopped { step: 1 });
        for (steps, workers) in [(1, 1), (2, 0)] {
            let mut trainer = trainer(entry, &cut, workers);
            trainer
                .resume(&Checkpoint::latest(&cut).unwrap().unwrap())
                .unwrap();
            trainer.train(&mut StopAfter(steps)).unwrap();
        }
        let files = content(&whole, 4);
        // Each store, the optimizer and the place in the run.
        let stores = trainer(entry, &cut, 0).method().stores().len();
        assert_eq!(files.len(), stores + 2, "{}", entry.name);
        assert_eq!(files, content(&cut, 4), "{}", entry.name);
        let losses = |run: &Path| {
            let log = EpochLog::new(run).read().unwrap();
            log.iter()
                .map(|record| (record.epoch, record.train_loss.to_bits()))
                .collect::<Vec<_>>()
        };
        assert_eq!(losses(&whole), losses(&cut), "{}", entry.name);
    }
}

#[test]
fn left_over_temporaries_are_passed_over_and_old_checkpoints_removed() {
    let dir = tempfile::tempdir().unwrap();
    let entry = &METHODS[0];
    fs::create_dir_all(dir.path().join("checkpoints/step-99.tmp")).unwrap();
    fs::create_dir_all(dir.path().join("checkpoints/step-98")).unwrap(); // no state.json
    trainer(entry, dir.path(), 0).train(&mut ()).unwrap();
    let latest = Checkpoint::latest(dir.path()).unwrap().unwrap();
    assert_eq!(latest.state().step, 4);
    let trainer = trainer(entry, dir.path(), 0);
    assert!(latest.load_method(trainer.method()).is_ok());
}

#[test]
fn a_checkpoint_of_another_method_or_size_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    trainer(&METHODS[0], dir.path(), 0)
        .train(&mut StopAfter(1))
        .unwrap();
    let checkpoint = Checkpoint::latest(dir.path()).unwrap().unwrap();
    let error = trainer(&METHODS[1], dir.path(), 0)
        .resume(&checkpoint)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("checkpoint of mae, not of simmim"),
        "{error}"
    );
    let mut wider = settings(&METHODS[0]);
    wider["encoder"]["embed_dim"] = 32.into();
    wider["encoder"]["depth"] = 2.into();
    let wider = METHODS[0].build(wider, &Device::Cpu, 5).unwrap();
    let error = checkpoint
        .load_method(wider.as_ref())
        .unwrap_err()
        .to_string();
    for part in [
        "missing",
        "blocks.1.attn.qkv.weight",
        "cls_token: the model has [1, 1, 32], the weights [1, 1, 16]",
    ] {
        assert!(error.contains(part), "{error}");
    }
}
