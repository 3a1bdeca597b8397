//! Damage to a run is noticed, and a second process keeps out.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{content, errors, log, mim, pretrain, succeeds};

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_older_one_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    succeeds(
        &pretrain(dir.path(), "run", &["--epochs", "3", "--no-eval"])
            .output()
            .unwrap(),
    );
    let (checkpoints, whole) = (content(&run.join("checkpoints")), log(&run));
    let newest = run.join("checkpoints/step-6");
    let damage = |what: &str| match what {
        "cut" => fs::write(newest.join("optimizer.safetensors"), [0; 40]).unwrap(),
        "gone" => fs::remove_file(newest.join("state.json")).unwrap(),
        file => flip(&newest.join(file), 3000),
    };
    for what in [
        "student.safetensors",
        "optimizer.safetensors",
        "state.json",
        "cut",
        "gone",
    ] {
        damage(what);
        let info = mim(&["info", "--verify", run.to_str().unwrap()])
            .output()
            .unwrap();
        let (shown, error) = (String::from_utf8_lossy(&info.stdout), errors(&info));
        assert_eq!(info.status.code(), Some(1), "{what}: {shown}");
        assert!(
            shown.contains("step-6  damaged") && shown.contains("step-4  whole"),
            "{shown}"
        );
        assert!(error.contains("1 checkpoints are damaged"), "{error}");
        let mut resume = pretrain(dir.path(), "run", &["--epochs", "3", "--no-eval"]);
        let told = succeeds(&resume.args(["--resume", "auto"]).output().unwrap());
        assert!(
            told.contains("is skipped") && told.contains("step-4"),
            "{told}"
        );
        assert!(content(&run.join("checkpoints")) == checkpoints, "{what}");
        assert_eq!(log(&run), whole, "{what}");
    }
    let verify = mim(&["info", "--verify", run.to_str().unwrap()]).output();
    succeeds(&verify.unwrap());
    none_is_left(dir.path(), &run);
}

/// With none left the run is not started anew in silence.
fn none_is_left(dir: &Path, run: &Path) {
    for step in ["step-4", "step-6"] {
        flip(
            &run.join("checkpoints")
                .join(step)
                .join("student.safetensors"),
            9,
        );
    }
    for command in [&["eval", "knn"][..], &["export", "--output", "none"]] {
        let mut command = mim(command);
        let output = command.arg("--checkpoint").arg(run).output().unwrap();
        assert!(errors(&output).contains("none of the checkpoints is whole"));
    }
    let mut resume = pretrain(dir, "run", &["--epochs", "3", "--resume", "auto"]);
    let output = resume.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        run.join("checkpoints/step-6/optimizer.safetensors")
            .exists()
    );
}

#[test]
fn numbers_that_do_not_fit_are_refused_where_there_are_no_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("run/checkpoints/step-4/state.json");
    succeeds(
        &pretrain(dir.path(), "run", &["--epochs", "2", "--no-eval"])
            .output()
            .unwrap(),
    );
    fs::remove_dir_all(dir.path().join("run/checkpoints/step-2")).unwrap();
    let mut saved: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    let entries = saved.as_object_mut().unwrap();
    assert!(entries.remove("files").is_some() && entries.remove("crc32").is_some());
    let resume = |saved: &serde_json::Value| {
        fs::write(&state, format!("{saved:#}")).unwrap();
        let mut command = pretrain(dir.path(), "run", &["--no-eval", "--resume", "auto"]);
        command.args(["--epochs", "2"]).output().unwrap()
    };
    let told = succeeds(&resume(&saved));
    assert!(told.contains("without checksums"), "{told}");
    for (key, value, part) in [
        ("epoch", 1, "does not match its position"),
        ("iter", 2, "its position is impossible"),
        ("iter", 1, "does not match its position"),
        ("step", 5, "does not match its position"),
        ("seed", 9, "its seed is 9"),
        ("world", 0, "its position is impossible"),
    ] {
        let mut other = saved.clone();
        other[key] = value.into();
        // So that the run is not taken for a finished one.
        let _ = fs::remove_file(dir.path().join("run/summary.json"));
        let output = resume(&other);
        let error = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{key} {value}: {error}");
        assert!(error.contains(part), "{key} {value}: {error}");
    }
}

#[test]
fn a_second_process_keeps_out_of_the_folder_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = pretrain(dir.path(), "run", &["--epochs", "100000", "--no-eval"]);
    let mut first = first.stderr(std::process::Stdio::null()).spawn().unwrap();
    let (start, log) = (Instant::now(), dir.path().join("run/log.jsonl"));
    while !log.exists() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    for more in [&["--resume", "auto"][..], &["--overwrite"], &[]] {
        let output = pretrain(dir.path(), "run", more).output().unwrap();
        let error = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("another process is training"), "{error}");
    }
    assert!(first.try_wait().unwrap().is_none());
    first.kill().unwrap();
    first.wait().unwrap();
    let again = pretrain(
        dir.path(),
        "run",
        &["--epochs", "1", "--overwrite", "--no-eval"],
    );
    succeeds(&{ again }.output().unwrap());
}
