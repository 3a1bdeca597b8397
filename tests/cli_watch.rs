//! Watching a run: probes between epochs, the best weights, rules that end it. None of it changes what is trained.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

const CONFIG: &str = "method = \"mae\"\nencoder = { image_size = 16, patch_size = 8, embed_dim = 8, depth = 1, \
    num_heads = 2 }\ndecoder = { embed_dim = 8, depth = 1, num_heads = 2 }\nviews = { shared = [{ type = \
    \"random_resized_crop\", size = \"image_size\" }] }\n[data]\nworkers = 0\n[train]\nepochs = 4\nbatch_size = 250\n\
    lr = 1e-3\n";

/// Standard error of a run with these options, which must end with this status.
fn pretrain(dir: &Path, run: &str, more: &[&str], status: i32) -> String {
    fs::write(dir.join("c.toml"), CONFIG).unwrap();
    let args = [
        "pretrain",
        "--config",
        "c.toml",
        "--no-eval",
        "--output-dir",
        run,
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    let output = command
        .args(args)
        .args(more)
        .current_dir(dir)
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{more:?}\n{err}");
    err
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn log(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn probes_leave_the_training_as_it_is_and_the_best_weights_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pretrain(dir, "plain", &[], 0);
    let err = pretrain(
        dir,
        "watched",
        &["--probe-every", "2", "--keep-best", "loss"],
        0,
    );
    assert!(
        err.contains("probes: ") && err.contains("knn_top1"),
        "{err}"
    );
    let (plain, watched) = (dir.join("plain"), dir.join("watched"));
    let last = |run: &Path| files(&run.join("checkpoints/step-16"));
    assert_eq!(last(&plain), last(&watched));
    let logs = (log(&plain), log(&watched));
    for (epoch, (plain, watched)) in logs.0.iter().zip(&logs.1).enumerate() {
        assert_eq!(plain["train_loss"], watched["train_loss"]);
        let names: Vec<_> = watched["measured"]
            .as_object()
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(names.len(), if epoch % 2 == 1 { 5 } else { 0 }, "{watched}");
    }
    // The loss of the last epoch is the lowest one, so `best` is the last checkpoint.
    let losses: Vec<f64> = logs
        .1
        .iter()
        .map(|line| line["train_loss"].as_f64().unwrap())
        .collect();
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
    assert_eq!(files(&watched.join("best")).len(), 3);
    let state = fs::read_to_string(watched.join("best/state.json")).unwrap();
    assert!(state.contains("\"step\": 16"), "{state}");
}

#[test]
fn rules_end_a_run_and_those_that_name_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let rule = ["--probe-every", "1", "--stop-if", "rankme < 1000 @ epoch 2"];
    let err = pretrain(dir, "short", &rule, 0);
    assert!(err.contains("the run ends here: rankme is"), "{err}");
    assert_eq!(log(&dir.join("short")).len(), 2);
    assert!(dir.join("short/summary.json").exists());
    // grad_norm does not fall in every epoch for ever; a loss below nothing never does.
    let err = pretrain(dir, "never", &["--stop-if", "loss < -1"], 0);
    assert!(!err.contains("ends here") && log(&dir.join("never")).len() == 4);
    for (more, wanted) in [
        (&["--stop-if", "knn_top1 < 9"][..], "give --probe-every N"),
        (
            &["--probe-every", "1", "--keep-best", "accuracy"],
            "use loss, grad_norm",
        ),
        (&["--probe-every", "0"], "use 1 or more"),
    ] {
        let err = pretrain(dir, "refused", more, 1);
        assert!(err.contains(wanted), "{more:?}: {err}");
        assert!(!dir.join("refused").exists(), "{more:?}");
    }
    pretrain(dir, "usage", &["--stop-if", "knn_top1"], 2);
    pretrain(dir, "usage", &["--patience", "3"], 2);
}
