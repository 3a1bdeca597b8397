//! `examples/own_tool.rs`: parts and a method of a program's own are in every command.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program of the example, which `cargo test` builds beside the tests.
fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let release = deps.parent().unwrap().parent().unwrap();
    let program = release.join("examples/own_tool");
    assert!(
        program.exists(),
        "{} is not built: run cargo build --release --example own_tool",
        program.display()
    );
    program
}

/// Runs a command that must succeed; gives what it prints.
fn run(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new(program());
    command.env("CUDA_VISIBLE_DEVICES", "");
    let done = command.args(args).current_dir(dir).output().unwrap();
    let err = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{args:?}: {err}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let copied = to.join(entry.file_name().unwrap());
        match entry.is_dir() {
            true => copy(&entry, &copied),
            false => drop(fs::copy(&entry, &copied).unwrap()),
        }
    }
}

const TINY: [&str; 12] = [
    "--set",
    "encoder={image_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2}",
    "--set",
    "decoder.embed_dim=8",
    "--set",
    "decoder.depth=1",
    "--set",
    "decoder.num_heads=2",
    "--set",
    "eval.batch_size=256",
    "--batch-size",
    "512",
];

#[test]
fn a_method_of_ones_own_trains_resumes_and_is_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let fixed = ["pretrain", "--method", "columns", "--no-eval"];
    let keep = ["--epochs", "2", "--set", "train.keep_checkpoints=2"];
    let whole = ["--set", "hidden=2", "--output-dir", "whole"];
    run(dir, &[&fixed[..], &TINY, &keep, &whole].concat());
    // A copy that lacks the last checkpoint trains its second epoch again.
    let halves = dir.join("halves");
    copy(&dir.join("whole"), &halves);
    let checkpoints: Vec<_> = fs::read_dir(halves.join("checkpoints")).unwrap().collect();
    let names = checkpoints
        .iter()
        .map(|entry| entry.as_ref().unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort_by_key(|name| name.trim_start_matches("step-").parse::<usize>().unwrap());
    let last = &names[1];
    fs::remove_dir_all(halves.join("checkpoints").join(last)).unwrap();
    let resume = [
        "pretrain",
        "--output-dir",
        "halves",
        "--no-eval",
        "--resume",
        "auto",
    ];
    run(dir, &resume);
    let weights = |run: &str| {
        let file = dir
            .join(run)
            .join("checkpoints")
            .join(last)
            .join("student.safetensors");
        fs::read(file).unwrap()
    };
    assert_eq!(weights("whole"), weights("halves"));
    let knn = run(dir, &["eval", "knn", "--checkpoint", "whole"]);
    assert!(knn.contains("knn_top1"), "{knn}");
    run(dir, &["visualize", "--checkpoint", "whole", "--count", "2"]);
    assert!(dir.join("reconstruction.png").exists());
    let bench = ["bench", "step", "--method", "columns", "--arch", "vit_tiny"];
    let sizes = ["--batch", "2", "--steps", "1", "--warmup", "0"];
    let small = ["--set", "encoder.depth=1"];
    let line = run(dir, &[&bench[..], &sizes, &small].concat());
    assert!(line.contains("\"method\":\"columns\""), "{line}");
    let methods = run(dir, &["methods", "columns"]);
    assert!(methods.contains("MAE that hides columns"), "{methods}");
}

#[test]
fn parts_of_ones_own_are_named_in_configs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let parts = run(dir, &["parts"]);
    assert!(parts.contains("checkerboard") && parts.contains("mean_colour"));
    let compose = [
        "pretrain",
        "--method",
        "custom",
        "--set",
        "masker.type=checkerboard",
        "--set",
        "masker.side=2",
        "--set",
        "target.type=mean_colour",
        "--epochs",
        "1",
        "--no-eval",
    ];
    let small = ["--set", "encoder.embed_dim=16", "--set", "encoder.depth=1"];
    let small = [&small[..], &["--set", "encoder.num_heads=2"]].concat();
    let rest = ["--batch-size", "512", "--output-dir", "run"];
    run(dir, &[&compose[..], &small, &rest].concat());
    let config = fs::read_to_string(dir.join("run/config.toml")).unwrap();
    assert!(config.contains("checkerboard"), "{config}");
    let linear = run(dir, &["eval", "linear", "--checkpoint", "run"]);
    assert!(linear.contains("linear_top1"), "{linear}");
    let bench = ["bench", "step", "--method", "custom"];
    let settings = ["--set", "scale=32px", "--set", "masker.type=checkerboard"];
    let steps = ["--batch", "2", "--steps", "1", "--warmup", "0"];
    run(dir, &[&bench[..], &settings, &steps].concat());
}
