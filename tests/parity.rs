//! `mim parity` over the committed cases of parts and of evaluation protocols.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn committed(folder: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("mim-testing/goldens").join(folder)
}

/// Case, verdict and reason of each case found there.
fn parity(paths: &[PathBuf]) -> Vec<(String, String, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    command.args(["parity", "--json", "--device", "cpu"]);
    let output = command.args(paths).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let reports = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let text = |report: &Value, key: &str| report[key].as_str().unwrap_or_default().to_owned();
    let reports = reports.filter(|report: &Value| report.get("case").is_some());
    reports
        .map(|report| ["case", "verdict", "reason"].map(|key| text(&report, key)))
        .map(|[case, verdict, reason]| (case, verdict, reason))
        .collect()
}

#[test]
fn every_committed_case_of_a_part_agrees() {
    let folders = ["components", "evaluation"].map(committed);
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    let files = files.filter(|file| {
        let path = file.as_ref().unwrap().path();
        path.extension().is_some_and(|end| end == "json")
    });
    let reports = parity(&folders);
    assert_eq!(reports.len(), files.count());
    for (case, verdict, reason) in reports {
        assert_eq!(verdict, "pass", "{case}: {reason}");
    }
}

/// The reason why a copy of a committed case fails after its JSON was changed.
fn refused(case: &str, change: impl FnOnce(&mut Value)) -> String {
    let (folder, own) = (tempfile::tempdir().unwrap(), committed(case));
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let mut json = serde_json::from_str(&read(&own.with_extension("json"))).unwrap();
    change(&mut json);
    let path = folder.path().join("case.json");
    fs::write(&path, json.to_string()).unwrap();
    let tensors = own.with_extension("safetensors");
    if tensors.exists() {
        fs::copy(tensors, path.with_extension("safetensors")).unwrap();
    }
    let [(_, verdict, reason)] = &parity(&[path])[..] else {
        panic!("one case, one report");
    };
    assert_eq!(verdict, "fail", "{reason}");
    reason.clone()
}

#[test]
fn other_settings_and_other_numbers_fail() {
    let reason = refused("evaluation/cosine_schedule", |json| {
        json["config"]["linprobe"]["lr"] = 6.5.into();
    });
    assert!(reason.starts_with("expect.linprobe.lr"), "{reason}");
    let reason = refused("components/unigrad_loss", |json| {
        json["config"]["cases"]["ln"]["neg_weight"] = 0.6.into();
    });
    assert!(reason.starts_with("expect.ln.loss"), "{reason}");
    // A recorded draw out of the masker's range, and a number of a table.
    let reason = refused("components/ibot_block_mask", |json| {
        json["config"]["tapes"][0]["tape"][0][3] = 0.9.into();
    });
    assert!(reason.contains("0.9 where a draw"), "{reason}");
    let reason = refused("components/beit_schedules", |json| {
        json["values"]["lr"][3] = 1.into();
    });
    assert!(reason.starts_with("values.lr"), "{reason}");
    // A setting that is not read, and a value that mim lacks.
    let reason = refused("components/sincos_pos_embed", |json| {
        json["config"]["scale"] = 1.into();
    });
    assert!(reason.contains("scale"), "{reason}");
    let reason = refused("components/beit_schedules", |json| {
        json["values"]["other"] = 1.into();
    });
    assert!(reason.starts_with("values.other"), "{reason}");
    // A tolerance below zero allows nothing.
    let reason = refused("components/hog_dmjd", |json| {
        json["tolerance"]["atol"] = (-1).into();
    });
    assert!(reason.starts_with("expect."), "{reason}");
}
