//! A run that was cut and resumed equals one that was not, byte by byte.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mim_core::data::{Dataset, LoaderConfig, Subset};
use mim_core::optim::{AdamWConfig, Freeze, LarsConfig};
use mim_core::train::{Checkpoint, EpochLog, Observer, Outcome, StepReport, TrainConfig, Trainer};

use mim_core::{Method, Per, Schedule};

use common::{StopAfter, Tiny, content, losses, tiny};

fn config() -> TrainConfig {
    TrainConfig {
        epochs: 2,
        batch_size: 25,
        accum_iter: 2,
        lr: Some(1e-3),
        ..TrainConfig::default()
    }
}

fn trainer(tiny: &Tiny, run: &Path, workers: usize) -> Trainer {
    let train = TrainConfig {
        weight_decay_schedule: Some(Schedule::Linear {
            start: 0.04,
            end: 0.4,
            per: Per::Iter,
        }),
        freeze: vec![frozen()],
        ..config()
    };
    trainer_with(tiny, run, workers, train)
}

fn frozen() -> Freeze {
    Freeze {
        contains: "last_layer".to_owned(),
        until_epoch: 1,
    }
}

/// As many samples as two steps take.
fn some_data(method: &dyn Method) -> Arc<dyn Dataset> {
    let all = common::data(method);
    Arc::new(Subset::new(all, (0..100).collect()).unwrap())
}

fn trainer_with(tiny: &Tiny, run: &Path, workers: usize, train: TrainConfig) -> Trainer {
    let method = tiny.build(5);
    let data = some_data(method.as_ref());
    let loading = LoaderConfig {
        workers,
        ..LoaderConfig::default()
    };
    Trainer::new(method, (data, loading), train, run)
        .unwrap()
        .settings(serde_json::json!({ "seed": 5 }))
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    for tiny in common::all() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
        for run in [&whole, &cut] {
            fs::create_dir(run).unwrap();
        }
        let mut trainer_of_whole = trainer(&tiny, &whole, 0);
        assert_eq!(trainer_of_whole.train(&mut ()).unwrap(), Outcome::Finished);
        // Cut in the middle of an epoch, then at its end, with other numbers of workers.
        let stopped = trainer(&tiny, &cut, 2).train(&mut StopAfter(1)).unwrap();
        assert_eq!(stopped, Outcome::Stopped { step: 1 });
        for (steps, workers) in [(1, 1), (2, 0)] {
            let mut trainer = trainer(&tiny, &cut, workers);
            trainer
                .resume(&Checkpoint::latest(&cut).unwrap().unwrap())
                .unwrap();
            trainer.train(&mut StopAfter(steps)).unwrap();
        }
        let files = content(&whole, 4);
        // Each store, the optimizer and the place in the run.
        let stores = trainer_of_whole.method().stores().len();
        assert_eq!(files.len(), stores + 2, "{}", tiny.file);
        assert_eq!(files, content(&cut, 4), "{}", tiny.file);
        assert_eq!(losses(&whole), losses(&cut), "{}", tiny.file);
    }
}

/// Notes the stages that end, and may end the run after a number of steps.
struct Stages(Vec<usize>, StopAfter);

impl Observer for Stages {
    fn step(&mut self, report: &StepReport) {
        self.1.step(report);
    }

    fn stage(&mut self, stage: usize, method: &dyn Method) {
        // The student is still what the stage has trained.
        let value = |store: usize| {
            let var = method.stores()[store].1.var("cls_token").unwrap();
            var.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_ne!(value(0), value(1));
        self.0.push(stage);
    }

    fn stop(&self) -> bool {
        self.1.stop()
    }
}

#[test]
fn a_run_of_stages_resumes_in_any_of_them() {
    let (dir, dbot) = (tempfile::tempdir().unwrap(), tiny("dbot"));
    let whole = dir.path().join("whole");
    let mut watch = Stages(vec![], StopAfter(usize::MAX));
    trainer(&dbot, &whole, 0).train(&mut watch).unwrap();
    assert_eq!(watch.0, [0]);
    // In the first stage, between the two, and in the second; an epoch is two steps and a stage.
    for steps in 1..4 {
        let cut = dir.path().join(format!("cut-{steps}"));
        let mut watch = Stages(vec![], StopAfter(steps));
        trainer(&dbot, &cut, 0).train(&mut watch).unwrap();
        let mut resumed = trainer(&dbot, &cut, 0);
        resumed
            .resume(&Checkpoint::latest(&cut).unwrap().unwrap())
            .unwrap();
        watch.1 = StopAfter(usize::MAX);
        resumed.train(&mut watch).unwrap();
        assert_eq!(watch.0, [0], "{steps}");
        assert_eq!(content(&whole, 4), content(&cut, 4), "{steps}");
    }
    let short = TrainConfig {
        epochs: 1,
        ..config()
    };
    let run = dir.path().join("short");
    let method = dbot.build(5);
    let data = (some_data(method.as_ref()), LoaderConfig::default());
    let error = Trainer::new(method, data, short, run);
    let error = error.err().unwrap().to_string();
    assert!(error.contains("begins at epoch 1"), "{error}");
}

#[test]
fn other_optimizers_resume_too_and_refuse_each_others_state() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let lars = || TrainConfig {
        optimizer: LarsConfig::default().into(),
        ..config()
    };
    let mae = tiny("mae");
    trainer_with(&mae, &whole, 0, lars())
        .train(&mut ())
        .unwrap();
    trainer_with(&mae, &cut, 0, lars())
        .train(&mut StopAfter(1))
        .unwrap();
    let checkpoint = Checkpoint::latest(&cut).unwrap().unwrap();
    let mut adamw = trainer_with(&mae, &dir.path().join("adamw"), 0, config());
    let error = adamw.resume(&checkpoint).unwrap_err().to_string();
    assert!(error.contains(".momentum"), "{error}");
    let mut trainer = trainer_with(&mae, &cut, 0, lars());
    trainer.resume(&checkpoint).unwrap();
    trainer.train(&mut ()).unwrap();
    assert_eq!(content(&whole, 4), content(&cut, 4));
}

#[test]
fn views_are_those_of_each_epoch() {
    let growing = tiny("fastmim");
    let mut steady = tiny("fastmim");
    steady.settings.remove("stages").unwrap();
    let losses = |tiny: &Tiny| {
        let dir = tempfile::tempdir().unwrap();
        trainer(tiny, dir.path(), 0).train(&mut ()).unwrap();
        let log = EpochLog::new(dir.path()).read().unwrap();
        [0, 1].map(|epoch| log[epoch].train_loss.to_bits())
    };
    let (growing, steady) = (losses(&growing), losses(&steady));
    assert_eq!(growing[0], steady[0]);
    assert_ne!(growing[1], steady[1]);
}

#[test]
fn held_parameters_stay_until_their_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let ibot = tiny("ibot");
    let value = |method: &dyn Method, name: &str| -> Vec<f32> {
        let var = method.stores()[0].1.var(name).unwrap();
        var.flatten_all().unwrap().to_vec1().unwrap()
    };
    let mut trainer = trainer(&ibot, dir.path(), 0);
    let (held, free) = ("head.last_layer.weight_v", "head.mlp.0.weight");
    let start = ibot.build(5);
    trainer.train(&mut StopAfter(2)).unwrap();
    let now = trainer.method();
    assert_eq!(value(now, held), value(start.as_ref(), held));
    assert_ne!(value(now, free), value(start.as_ref(), free));
    trainer.train(&mut StopAfter(1)).unwrap();
    assert_ne!(value(trainer.method(), held), value(start.as_ref(), held));
}

#[test]
fn the_weight_decay_follows_its_course() {
    let dir = tempfile::tempdir().unwrap();
    let constant = |value| Some(Schedule::constant(value));
    let run = |name: &str, weight_decay: f64, schedule: Option<Schedule>| {
        let run = dir.path().join(name);
        let optimizer = AdamWConfig {
            weight_decay,
            ..AdamWConfig::default()
        };
        let train = TrainConfig {
            weight_decay_schedule: schedule,
            optimizer: optimizer.into(),
            ..config()
        };
        let mut trainer = trainer_with(&tiny("mae"), &run, 0, train);
        // The learning rate of the first step is zero.
        trainer.train(&mut StopAfter(2)).unwrap();
        fs::read(run.join("checkpoints/step-2/student.safetensors")).unwrap()
    };
    let scheduled = run("scheduled", 0.05, constant(0.3));
    // Not assert_eq: a failure would print the files.
    assert!(scheduled == run("set", 0.3, None));
    assert!(scheduled != run("default", 0.05, None));
}

#[test]
fn left_over_temporaries_are_passed_over_and_old_checkpoints_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mae = tiny("mae");
    fs::create_dir_all(dir.path().join("checkpoints/step-99.tmp")).unwrap();
    fs::create_dir_all(dir.path().join("checkpoints/step-98")).unwrap(); // no state.json
    trainer(&mae, dir.path(), 0).train(&mut ()).unwrap();
    let latest = Checkpoint::latest(dir.path()).unwrap().unwrap();
    assert_eq!(latest.state().step, 4);
    let trainer = trainer(&mae, dir.path(), 0);
    assert!(latest.load_method(trainer.method()).is_ok());
}

#[test]
fn a_checkpoint_of_another_method_or_size_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    trainer(&tiny("mae"), dir.path(), 0)
        .train(&mut StopAfter(1))
        .unwrap();
    let checkpoint = Checkpoint::latest(dir.path()).unwrap().unwrap();
    let error = trainer(&tiny("simmim"), dir.path(), 0)
        .resume(&checkpoint)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("checkpoint of mae, not of simmim"),
        "{error}"
    );
    let mut wider = tiny("mae");
    wider.settings["encoder"]["embed_dim"] = 32.into();
    wider.settings["encoder"]["depth"] = 3.into();
    let wider = wider.build(5);
    let error = checkpoint
        .load_method(wider.as_ref())
        .unwrap_err()
        .to_string();
    for part in [
        "missing",
        "blocks.2.attn.qkv.weight",
        "cls_token: the model has [1, 1, 32], the weights [1, 1, 16]",
    ] {
        assert!(error.contains(part), "{error}");
    }
}
