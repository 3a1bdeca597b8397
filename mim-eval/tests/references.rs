//! Probes against scikit-learn; `mim parity` compares recorded cases.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use mim_core::augment::{Augment, Pad, ViewPlan};
use mim_core::data::{DataSource, Split};
use mim_eval::{EvalConfig, Features, KnnConfig, LinearConfig, probe, raw_pixels};
use serde_json::Value;

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn pixels(split: Split, plan: ViewPlan) -> Features {
    let dataset = DataSource::Embedded.open(split).unwrap();
    raw_pixels(dataset, plan, &EvalConfig::default()).unwrap()
}

fn scikit_learn() -> Value {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens"));
    read_json(&folder.join("raw_pixels.json"))
}

fn differences(got: &[u32], want: &Value) -> usize {
    let want = want.as_array().unwrap();
    assert_eq!(got.len(), want.len());
    let pairs = got.iter().zip(want);
    pairs
        .filter(|(got, want)| Some(u64::from(**got)) != want.as_u64())
        .count()
}

#[test]
fn linear_probe_of_pixels_agrees_with_scikit_learn() {
    let want = &scikit_learn()["linear"];
    let (train, test) = (
        pixels(Split::Train, ViewPlan::default()),
        pixels(Split::Test, ViewPlan::default()),
    );
    let exact = LinearConfig {
        max_iter: 5000,
        tolerance: 1e-9,
        ..LinearConfig::default()
    };
    let fitted = exact.fit(&train).unwrap();
    let objective = want["objective"].as_f64().unwrap();
    assert!((fitted.logistic().objective / objective - 1.).abs() < 1e-7);
    assert_eq!(
        differences(&fitted.predict(&test).unwrap(), &want["predictions"]),
        0
    );
    assert!((fitted.accuracies(&test).unwrap().top1 - want["top1"].as_f64().unwrap()).abs() < 1e-9);
    // 300 steps do not reach the optimum here, neither there nor here: an image near a border may differ.
    let quick = LinearConfig::default().fit(&train).unwrap();
    let predictions = quick.predict(&test).unwrap();
    assert!(differences(&predictions, &want["default_predictions"]) <= 2);
    assert!(differences(&predictions, &want["predictions"]) <= 2);
}

#[test]
fn neighbours_by_pixels_agree_with_numpy() {
    let want = &scikit_learn()["knn"];
    let (train, test) = (
        pixels(Split::Train, ViewPlan::default()),
        pixels(Split::Test, ViewPlan::default()),
    );
    let accuracy = KnnConfig::default().accuracy(&train, &test).unwrap();
    assert!((accuracy.top1 - want["top1"].as_f64().unwrap()).abs() < 1e-9);
    assert!((accuracy.top5 - want["top5"].as_f64().unwrap()).abs() < 1e-9);
    let votes = KnnConfig::default().votes(&train, &test).unwrap();
    let votes = Tensor::new(votes, &Device::Cpu).unwrap();
    let predictions: Vec<u32> = votes.argmax(1).unwrap().to_vec1().unwrap();
    assert_eq!(differences(&predictions, &want["predictions"]), 0);
}

#[test]
fn a_black_border_changes_no_probe_of_pixels() {
    let plan = ViewPlan::single(vec![Augment::Pad(Pad { pixels: 2, fill: 0 })]);
    let config = EvalConfig::default();
    let padded = [Split::Train, Split::Test].map(|split| pixels(split, plan.clone()));
    assert_eq!(padded[0].dim(), 32 * 32);
    let plain = [Split::Train, Split::Test].map(|split| pixels(split, ViewPlan::default()));
    let (padded, plain) = (
        probe(&padded[0], &padded[1], &config).unwrap(),
        probe(&plain[0], &plain[1], &config).unwrap(),
    );
    assert_eq!(
        (padded.knn_top1, padded.knn_top5),
        (plain.knn_top1, plain.knn_top5)
    );
    assert!((padded.linear_top1 - plain.linear_top1).abs() <= 0.4);
}
