//! A run whose loss is not finite keeps the step, and `mim replay` says which term and which image.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Standard output and error of a command, which must end with this status.
fn mim(dir: &Path, args: &[&str], status: i32) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    let output = command.args(args).current_dir(dir).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}\n{out}\n{err}");
    (out, err)
}

/// A cloud of scattered points.
fn cloud(seed: u32) -> String {
    let mut text = String::new();
    for at in 0..200u32 {
        let value = |axis: u32| {
            let drawn = (seed * 600 + at * 3 + axis).wrapping_mul(2_654_435_761);
            f64::from(drawn >> 8) / f64::from(1 << 24)
        };
        writeln!(text, "{} {} {}", value(0), value(1), value(2)).unwrap();
    }
    text
}

const CLOUDS: &str = "method = \"i2pmae\"\nguided = false\nencoder = { num_points = 64, num_groups = [24, 12, 6], \
    group_sizes = [6, 4, 3], embed_dims = [8, 16, 24], depths = [1, 1, 1], embed_hidden = [4, 8, 12], num_heads = 2 }\n\
    decoder = { num_heads = 2 }\ntarget = { type = \"points\" }\nviews = { shared = [{ type = \"sample_points\", \
    count = 64 }], views = [[]] }\n[data]\nsource = \"clouds:clouds\"\nworkers = 0\n\
    [train]\nepochs = 1\nbatch_size = 6\n";

#[test]
fn a_poisoned_image_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("clouds")).unwrap();
    for seed in 0..5 {
        fs::write(dir.join(format!("clouds/{seed}.xyz")), cloud(seed)).unwrap();
    }
    // Finite, but its squared distances are not.
    let far = cloud(9).replace(' ', "e25 ").replace('\n', "e25\n");
    fs::write(dir.join("clouds/far.xyz"), far).unwrap();
    fs::write(dir.join("c.toml"), CLOUDS).unwrap();
    let pretrain = ["pretrain", "--config", "c.toml", "--output-dir", "run"];
    let (_, err) = mim(dir, &pretrain, 1);
    assert!(err.contains("is not finite at step 0"), "{err}");
    assert!(err.contains("mim replay run"), "{err}");
    let kept = fs::read_to_string(dir.join("run/non_finite/step.json")).unwrap();
    assert!(
        kept.contains("far.xyz") && kept.contains("\"kept\": true"),
        "{kept}"
    );
    let (out, _) = mim(dir, &["replay", "run"], 0);
    for wanted in [
        "step 0 (step 0 of epoch 1, seed 0",
        "parameters before the step: all ",
        "batch of 6 images\n  term points: ",
        // Batch norms have carried it into all images, and into their own statistics.
        "buffers: ",
        "one at a time, with other draws: of 1 of 6 images",
        "far.xyz",
    ] {
        assert!(out.contains(wanted), "{wanted}\n{out}");
    }
    assert!(!out.contains("0.xyz") && !out.contains("warning"), "{out}");
    // The initial weights and no step from there are the same.
    fs::remove_file(dir.join("run/non_finite/state.json")).unwrap();
    let moved = kept.replace("\"kept\": true", "\"kept\": false");
    fs::write(dir.join("run/non_finite/step.json"), moved).unwrap();
    let (again, _) = mim(dir, &["replay", "run"], 0);
    let after = |text: &str| text.split_once("\nbatch").unwrap().1.to_owned();
    assert!(again.contains("from the initial weights"), "{again}");
    assert_eq!(after(&again), after(&out));
}

const IMAGES: &str = "method = \"mae\"\nencoder = { image_size = 16, patch_size = 8, embed_dim = 8, depth = 1, \
    num_heads = 2 }\ndecoder = { embed_dim = 8, depth = 1, num_heads = 2 }\nviews = { shared = [{ type = \
    \"random_resized_crop\", size = \"image_size\" }] }\n[data]\nworkers = 0\n[train]\nepochs = 4\nbatch_size = 250\n\
    lr = 1e9\nlr_schedule = { type = \"constant\", value = 1e9 }\n";

#[test]
fn a_learning_rate_out_of_all_bounds_is_no_images_fault() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("c.toml"), IMAGES).unwrap();
    let pretrain = ["pretrain", "--config", "c.toml", "--output-dir", "run"];
    let (_, err) = mim(dir, &pretrain, 1);
    assert!(
        err.contains("the loss (pixel) is not finite at step 1"),
        "{err}"
    );
    let (out, _) = mim(dir, &["replay", "run"], 0);
    for wanted in [
        "from run/non_finite\n",
        "term pixel: NaN",
        "of all 250 images, so check parameters and learning rate",
    ] {
        assert!(out.contains(wanted), "{wanted}\n{out}");
    }
    let (_, err) = mim(dir, &["replay", "nowhere"], 1);
    assert!(err.contains("has no step whose loss"), "{err}");
    // A run in its place takes what was kept away.
    let overwrite = ["--overwrite", "--lr", "1e-3", "--epochs", "1", "--no-eval"];
    let steady = ["--set", "train.lr_schedule.value=1"];
    mim(dir, &[&pretrain[..], &overwrite, &steady].concat(), 0);
    assert!(!dir.join("run/non_finite").exists());
}
