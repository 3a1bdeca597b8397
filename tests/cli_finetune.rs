//! `mim finetune`: from a run, from scratch, resumed, and what it refuses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

const CONFIG: &str = "method = \"mae\"\nencoder = { image_size = 16, patch_size = 8, embed_dim = 8, depth = 1, \
    num_heads = 2 }\ndecoder = { embed_dim = 8, depth = 1, num_heads = 2 }\nviews = { shared = [{ type = \
    \"random_resized_crop\", size = \"image_size\" }] }\n[data]\nworkers = 0\n[train]\nepochs = 1\nbatch_size = 250\n\
    lr = 1e-3\n[eval]\nfinetune_epochs = 1\n";

/// Standard output and error of what must end with this status.
fn ends(args: &[&str], dir: &Path, status: i32) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    let output = command.args(args).current_dir(dir).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(status), "{args:?}\n{out}{err}");
    (out, err)
}

fn summary(run: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap()
}

#[test]
fn a_run_ends_with_fine_tuning_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("c.toml"), CONFIG).unwrap();
    let args = ["pretrain", "--config", "c.toml", "--output-dir", "run"];
    let (out, _) = ends(&args, dir, 0);
    assert!(out.contains("fine-tuned"), "{out}");
    let all = summary(&dir.join("run"));
    for key in ["finetuned_top1", "random_finetuned_top1"] {
        let value = all[key].as_f64().unwrap();
        assert!((0. ..=100.).contains(&value), "{key} {value}");
    }
    let linear = all["linear_top1"].as_f64().unwrap();
    let bounds = all["linear_top1_interval"].as_array().unwrap();
    let [low, high] = [0, 1].map(|at: usize| bounds[at].as_f64().unwrap());
    assert!(low <= linear && linear <= high);
}

#[test]
fn an_encoder_is_tuned_further_or_its_network_trained_from_scratch() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("c.toml"), CONFIG).unwrap();
    let args = [
        "pretrain",
        "--config",
        "c.toml",
        "--output-dir",
        "run",
        "--no-eval",
    ];
    ends(&args, dir, 0);
    let tune = |more: &[&str]| {
        let small = ["finetune", "--epochs", "1", "--batch-size", "250"];
        ends(&[&small, more].concat(), dir, 0).1
    };
    let err = tune(&["--checkpoint", "run", "--output-dir", "tuned"]);
    assert!(err.contains("the encoder starts from run"), "{err}");
    let tuned = summary(&dir.join("tuned"));
    assert!(tuned["finetuned_top5"].is_number() && tuned["linear_top1"].is_null());
    // Its head is of the same classes, so all of it goes on.
    let err = tune(&["--checkpoint", "tuned", "--no-eval"]);
    assert!(err.contains("the whole model starts from tuned"), "{err}");
    let err = tune(&[
        "--checkpoint",
        "run",
        "--output-dir",
        "scratch",
        "--scratch",
    ]);
    assert!(!err.contains("starts from"), "{err}");
    let loss = |run: &str| summary(&dir.join(run))["final_loss"].clone();
    assert_ne!(loss("tuned"), loss("scratch"));
    // A finished run is resumed by its folder alone.
    let args = ["finetune", "--resume", "auto", "--output-dir", "tuned"];
    let (_, err) = ends(&args, dir, 0);
    assert!(err.contains("the run is finished"), "{err}");
}

#[test]
fn what_cannot_be_tuned_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = CONFIG.replace("finetune_epochs = 1", "raw_pixels = false");
    fs::write(dir.join("c.toml"), config).unwrap();
    ends(
        &[
            "pretrain",
            "--config",
            "c.toml",
            "--output-dir",
            "run",
            "--no-eval",
        ],
        dir,
        0,
    );
    fs::create_dir(dir.join("photos")).unwrap();
    image::RgbImage::new(16, 16)
        .save(dir.join("photos/1.png"))
        .unwrap();
    for (args, wanted) in [
        (
            &["--checkpoint", "run", "--data", "folder:photos"][..],
            "no labels",
        ),
        (
            &["--checkpoint", "run", "--encoder", "teacher"],
            "no encoder of this name",
        ),
        (
            &["--checkpoint", "run", "--set", "num_classes=3"],
            "num_classes = ",
        ),
        (&["--checkpoint", "nowhere"], "nowhere"),
        (
            &["--checkpoint", "run", "--config", "mae_32px"],
            "is of mae",
        ),
        (
            &["--resume", "auto", "--output-dir", "new"],
            "`--checkpoint` is none",
        ),
    ] {
        let mut all = vec!["finetune", "--no-eval", "--epochs", "1"];
        all.extend(args);
        let (_, err) = ends(&all, dir, 1);
        assert!(err.contains(wanted), "{args:?}: {err}");
    }
}
