//! Whole steps on a CUDA device: the committed cases agree as they do on the CPU, and runs resume to the byte.
#![cfg(feature = "cuda")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use common::{Few, StopAfter, content, losses, tiny};
use mim_core::data::LoaderConfig;
use mim_core::ops::{Precision, launches};
use mim_core::train::{Checkpoint, Outcome, TrainConfig, Trainer};
use mim_methods::parity::{self, Overrides, Verdict};

fn check(method: &str, overrides: Overrides) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let gpu = Device::new_cuda(0).unwrap();
    let cases = parity::find(&own.join(method)).unwrap();
    // In bf16, many steps in a row lead somewhere else.
    let long = |case: &&parity::Case| overrides.losses_only && case.kind() == "trajectory";
    for case in cases.iter().filter(|case| !long(case)) {
        let before = launches();
        let report = parity::run(case, &gpu, overrides);
        assert_eq!(report.verdict, Verdict::Pass, "{report}");
        assert!(launches() > before + 100, "{method} hardly used kernels");
    }
}

#[test]
fn methods_agree_with_the_authors_code() {
    for method in [
        "mae", "simmim", "bootmae", "fastmim", "maskfeat", "convmae", "dmjd", "ibot", "milan",
        "sim", "cmae",
    ] {
        let overrides = Overrides {
            rtol: Some(1e-4),
            atol: Some(5e-6),
            ..Overrides::default()
        };
        check(method, overrides);
    }
}

#[test]
fn losses_in_bf16_are_near() {
    for method in ["mae", "simmim", "bootmae", "convmae", "milan"] {
        let overrides = Overrides {
            rtol: Some(2e-2),
            losses_only: true,
            precision: Precision::Bf16,
            ..Overrides::default()
        };
        check(method, overrides);
    }
}

/// There the report of a step comes when the next one is under way.
#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let gpu = Device::new_cuda(0).unwrap();
    let (mae, dir) = (tiny("mae"), tempfile::tempdir().unwrap());
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let trainer = |run: &Path| {
        let train = TrainConfig {
            epochs: 2,
            batch_size: 4,
            lr: Some(1e-3),
            ..TrainConfig::default()
        };
        let data = (Arc::new(Few::new(16)) as _, LoaderConfig::default());
        let method = mae.build_on(&gpu, 5);
        Trainer::new(method, data, train, run).unwrap()
    };
    assert_eq!(trainer(&whole).train(&mut ()).unwrap(), Outcome::Finished);
    let stopped = trainer(&cut).train(&mut StopAfter(1)).unwrap();
    assert_eq!(stopped, Outcome::Stopped { step: 2 });
    let mut rest = trainer(&cut);
    let checkpoint = Checkpoint::latest(&cut).unwrap().unwrap();
    rest.resume(&checkpoint).unwrap();
    assert_eq!(rest.train(&mut ()).unwrap(), Outcome::Finished);
    assert_eq!(content(&whole, 8), content(&cut, 8));
    assert_eq!(losses(&whole), losses(&cut));
}
