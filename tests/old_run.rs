//! Runs that older programs began are resumed by this one.
//!
//! `fixtures/run-0.1.0` was written by mim 0.1.0: `mim pretrain` of two epochs with a tiny MAE, its second
//! checkpoint taken out; `expected-step-4.safetensors` are the weights of that checkpoint.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use mim_core::weights::WeightMap;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn a_run_of_0_1_0_ends_with_the_same_weights() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/run-0.1.0");
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    copy(&fixture, &run);
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    command.args(["pretrain", "--resume", "auto", "--output-dir"]);
    let output = command.arg(&run).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let read = |path: &Path| WeightMap::read(path).unwrap();
    let got = read(&run.join("checkpoints/step-4/student.safetensors"));
    let expected = read(&fixture.join("expected-step-4.safetensors"));
    assert_eq!(
        got.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        expected.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    // Another processor sums in another order.
    for ((name, got), (_, expected)) in got.iter().zip(expected.iter()) {
        let apart = (got - expected).unwrap().abs().unwrap();
        let apart: f32 = apart.max_all().unwrap().to_scalar().unwrap();
        assert!(apart < 1e-5, "{name} is {apart} off");
    }
}
