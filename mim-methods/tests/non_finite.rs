//! A loss that is not finite ends training, and loses nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use common::{Few, images, tiny};
use mim_core::data::{Dataset, LoaderConfig};
use mim_core::optim::{AdamWConfig, Clip};
use mim_core::train::{
    Checkpoint, EpochLog, FailedStep, Origin, Replay, Stepper, TrainConfig, Trainer,
};
use mim_core::{Batch, Error, Method, Schedule, StepContext, View};

fn devices() -> Vec<Device> {
    #[cfg(feature = "cuda")]
    return vec![Device::Cpu, Device::new_cuda(0).unwrap()];
    #[cfg(not(feature = "cuda"))]
    vec![Device::Cpu]
}

/// All parameters, and what the optimizer keeps.
fn state(method: &dyn Method, stepper: &Stepper) -> Vec<Vec<f32>> {
    let stores = method.stores();
    let stores = stores.iter().flat_map(|(_, store)| store.parameters());
    let kept = stepper.optimizer().state().unwrap();
    let values = |xs: &Tensor| {
        let xs = xs.to_dtype(DType::F32).unwrap();
        xs.flatten_all().unwrap().to_vec1().unwrap()
    };
    let all = stores.map(|(_, var)| values(&var));
    all.chain(kept.iter().map(|(_, xs)| values(xs))).collect()
}

#[test]
fn a_step_moves_nothing_then() {
    for device in devices() {
        let method = tiny("mae").build_on(&device, 1);
        let clip = Clip::Global { max_norm: 1. };
        let mut stepper = Stepper::new(&*method, AdamWConfig::default(), clip).unwrap();
        let good = images(&*method);
        let pixels = good.views[0].unit().unwrap();
        let bad = View::new((pixels * f64::NAN).unwrap(), good.views[0].crops.clone());
        let bad = [Batch::single(bad.unwrap())];
        let at = StepContext::new(1);
        stepper.step(&*method, &[good], &at, 1e-3).unwrap();
        let before = state(&*method, &stepper);
        let error = stepper.step(&*method, &bad, &at, 1e-3).unwrap_err();
        assert!(error.to_string().contains("the loss"), "{error}");
        assert_eq!(state(&*method, &stepper), before, "{device:?}");
        // On a GPU whoever does not wait learns of it when asking.
        let late = stepper.start(&*method, &bad, &at, 1e-3);
        assert_eq!(late.is_ok(), device.is_cuda());
        if let Ok(late) = late {
            assert!(matches!(late.wait(), Err(Error::NonFinite { .. })));
        }
    }
}

#[test]
fn a_run_ends_with_the_checkpoint_before() {
    for device in devices() {
        let folder = tempfile::tempdir().unwrap();
        let train = TrainConfig {
            epochs: 3,
            batch_size: 4,
            lr: Some(1e30),
            // The first step stays where it is, the second one goes far out.
            lr_schedule: Schedule::MaeCosine {
                peak: 1.,
                min: 0.,
                warmup_epochs: 1.,
            },
            ..TrainConfig::default()
        };
        let loading = (
            Arc::new(Few::new(8)) as Arc<dyn Dataset>,
            LoaderConfig::default(),
        );
        let build = || tiny("mae").build_on(&device, 1);
        let (again, data) = (train.clone(), loading.clone());
        let mut trainer = Trainer::new(build(), loading, train, folder.path()).unwrap();
        let error = trainer.train(&mut ()).unwrap_err();
        assert!(matches!(error, Error::NonFinite { step: 2, .. }), "{error}");
        let left = Checkpoint::latest(folder.path()).unwrap().unwrap();
        assert_eq!((left.state().epoch, left.state().step), (1, 2));
        let log = EpochLog::new(folder.path()).read().unwrap();
        assert!(log.len() == 1 && log[0].train_loss.is_finite());
        // The step is kept; a GPU knows of it when the parameters have moved.
        let failed = FailedStep::open(folder.path()).unwrap();
        assert_eq!((failed.step, failed.kept), (2, device.is_cpu()));
        assert_eq!(failed.batches[0].len(), 4);
        let kept = FailedStep::folder(folder.path());
        let replay = |from: Option<&Checkpoint>| {
            let new = Trainer::new(build(), data.clone(), again.clone(), &kept);
            new.unwrap().replay(&failed, from).unwrap()
        };
        let found = replay(Some(&left));
        assert!(found.parameters.1.is_empty());
        let batch = &found.batches[0];
        assert_eq!(batch.images, failed.batches[0]);
        assert!(!batch.loss.is_finite() && batch.terms[0].0 == "pixel");
        let Some(Origin::Intermediate { rows, .. }) = &batch.origin else {
            panic!("{found:?}");
        };
        assert_eq!(rows, &[0, 1, 2, 3]);
        let same = |other: &Replay| format!("{other:?}") == format!("{found:?}");
        assert!(
            same(&replay(None)),
            "the steps from the start are run again"
        );
        if failed.kept {
            assert!(same(&replay(Some(&Checkpoint::open(&kept).unwrap()))));
        }
    }
}
