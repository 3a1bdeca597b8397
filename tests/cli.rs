//! The `mim` program as a user meets it: whole runs, kills, and bad input.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Settings that make a run small: a second an epoch at most.
const TINY: &[&str] = &[
    "--set",
    "encoder={ image_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2 }",
    "--set",
    "decoder={ embed_dim = 8, depth = 1, num_heads = 2 }",
    "--batch-size",
    "100",
    "--set",
    "eval.finetune_epochs=0",
];

fn mim(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    command.args(args).stdin(Stdio::null());
    command
}

fn pretrain(run: &Path, more: &[&str]) -> Command {
    let mut command = mim(&["pretrain", "--output-dir", run.to_str().unwrap()]);
    command.args(TINY).args(more);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(mut command: Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    assert!(status.success(), "{command:?}\n{}", text(&stderr));
    text(&stdout)
}

/// Runs what must fail with exit status 1 and gives its error.
fn fails(mut command: Command, parts: &[&str]) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let error = text(&stderr);
    assert_eq!(
        status.code(),
        Some(1),
        "{command:?}\n{}{error}",
        text(&stdout)
    );
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

/// Every file of a checkpoint with its bytes.
fn content(checkpoint: PathBuf) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(&checkpoint)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .map(|path| {
            (
                text(path.file_name().unwrap().as_encoded_bytes()),
                fs::read(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    assert!(files.len() >= 3, "{checkpoint:?}");
    files
}

#[test]
fn a_dry_run_takes_one_step_and_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut command = pretrain(&run, &["--dry-run", "--device", "cpu"]);
    let done = command.output().unwrap();
    let said = text(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(
        said.contains("train: 1000 images, 100 of each of 10 classes"),
        "{said}"
    );
    assert!(said.contains("dry run: the first of "), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fails(
        pretrain(&run, &["--dry-run", "--set", "train.batch_size=2000"]),
        &["only 1000 images"],
    );
}

#[test]
fn a_run_leaves_everything_it_should_and_probes_its_encoder() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let stdout = succeeds(pretrain(&run, &["--epochs", "1"]));
    for row in ["pretrained encoder", "random encoder", "raw pixels"] {
        assert!(stdout.contains(row), "{stdout}");
    }
    for file in [
        "config.toml",
        "log.jsonl",
        "loss.svg",
        "reconstruction.png",
        "summary.json",
        "checkpoints/step-10",
    ] {
        assert!(run.join(file).exists(), "{file}");
    }
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap();
    for key in [
        "linear_top1",
        "knn_top1",
        "random_linear_top1",
        "random_knn_top1",
        "raw_linear_top1",
        "raw_knn_top1",
        "images_per_s",
        "final_loss",
        "seconds",
    ] {
        assert!(
            summary[key].as_f64().is_some_and(|value| value > 0.),
            "{key}: {summary}"
        );
    }
    used_again(&run, dir.path(), &summary);
}

/// A finished run is not trained again nor written over; it can be evaluated, drawn and listed.
fn used_again(run: &Path, dir: &Path, summary: &serde_json::Value) {
    succeeds(pretrain(run, &["--epochs", "1", "--resume", "auto"]));
    fails(
        pretrain(run, &["--epochs", "1"]),
        &["not empty", "--resume auto", "--overwrite"],
    );
    fails(
        pretrain(run, &["--set", "mask_ratio=0.5", "--resume", "auto"]),
        &["other settings", "mask_ratio"],
    );
    let checkpoint = run.to_str().unwrap();
    let linear = succeeds(mim(&["eval", "linear", "--checkpoint", checkpoint]));
    let wanted = format!(
        "linear_top1 {:.2}\nlinear_top5 {:.2}\n",
        summary["linear_top1"].as_f64().unwrap(),
        summary["linear_top5"].as_f64().unwrap()
    );
    assert!(linear.starts_with(&wanted), "{linear}");
    assert!(succeeds(mim(&["eval", "knn", "--checkpoint", checkpoint])).starts_with("knn_top1 "));
    let of = ["eval", "knn", "--checkpoint", checkpoint, "--encoder"];
    fails(
        mim(&[&of[..], &["teacher"]].concat()),
        &["mae has no encoder of this name; use student"],
    );
    let picture = dir.join("picture.png");
    succeeds(mim(&[
        "visualize",
        "--checkpoint",
        checkpoint,
        "--output",
        picture.to_str().unwrap(),
        "--count",
        "2",
    ]));
    assert!(picture.exists());
    assert!(succeeds(mim(&["info", checkpoint])).contains("blocks.0.attn.qkv.weight"));
}

/// Starts a run and kills it as soon as `when` holds, or lets it end; gives whether it ended by itself.
fn killed(mut command: Command, when: impl Fn() -> bool) -> bool {
    let mut child = command
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return true;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "the run hangs");
        if when() {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_and_resumed_runs_equal_uninterrupted_ones_byte_by_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, again, cut) = (
        dir.path().join("whole"),
        dir.path().join("again"),
        dir.path().join("cut"),
    );
    let options = [
        "--epochs",
        "3",
        "--seed",
        "7",
        "--set",
        "data.source=embedded",
    ];
    let _ = [&whole, &again].map(|run| succeeds(pretrain(run, &options)));
    let resume: Vec<&str> = options
        .iter()
        .copied()
        .chain(["--resume", "auto", "--workers", "2"])
        .collect();
    // Killed before the first checkpoint, while the second one is being written, and after it.
    let at = |name: &'static str| move |cut: &Path| cut.join("checkpoints").join(name).exists();
    let log = |cut: &Path| cut.join("log.jsonl").exists();
    assert!(!killed(pretrain(&cut, &resume), || log(&cut)));
    assert!(!killed(pretrain(&cut, &resume), || at("step-20.tmp")(&cut)
        || at("step-20")(&cut)));
    assert!(!killed(pretrain(&cut, &resume), || at("step-20")(&cut)));
    fs::create_dir_all(cut.join("checkpoints/step-30.tmp")).unwrap();
    fs::write(
        cut.join("checkpoints/step-30.tmp/student.safetensors"),
        b"half",
    )
    .unwrap();
    assert!(killed(pretrain(&cut, &resume), || false));
    let last = |run: &Path| content(run.join("checkpoints/step-30"));
    assert_eq!(last(&whole), last(&again));
    let (whole_state, cut_state) = (last(&whole), last(&cut));
    for ((name, bytes), (_, cut_bytes)) in whole_state.iter().zip(&cut_state) {
        // The number of workers is a setting too, and the only thing that differs, but for the file's own checksum.
        let plain = |bytes: &[u8]| {
            let same = text(bytes).replace("\"workers\": 2", "\"workers\": 1");
            same.split("\"crc32\"")
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        match name.as_str() {
            "state.json" => assert_eq!(plain(bytes), plain(cut_bytes)),
            _ => assert!(bytes == cut_bytes, "{name} differs"),
        }
    }
    assert_eq!(losses(&whole), losses(&cut));
    assert_eq!(losses(&cut).len(), 3);
}

/// Epochs and losses of a run's log.
fn losses(run: &Path) -> Vec<[serde_json::Value; 2]> {
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .map(|line| ["epoch", "train_loss"].map(|key| line[key].clone()))
        .collect()
}

#[test]
fn runs_of_stages_report_each_and_resume_in_any_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let options =
        "--method dbot --epochs 4 --seed 3 --set stage_starts=[0,2] --set first_teacher_depth=0";
    let mut options: Vec<&str> = options.split(' ').collect();
    let stdout = succeeds(pretrain(&whole, &options));
    assert!(
        stdout.contains("stage 0: top-1 in percent, linear"),
        "{stdout}"
    );
    let json = |file: PathBuf| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
    };
    let stages = json(whole.join("summary.json"))["stages"].clone();
    assert_eq!(stages.as_array().unwrap().len(), 1);
    assert!(stages[0]["linear_top1"].as_f64().unwrap() > 0.);
    // Killed in the first stage, between the two, and in the second.
    options.extend(["--resume", "auto"]);
    for step in ["step-10", "step-20", "step-30"] {
        let checkpoint = cut.join("checkpoints").join(step);
        assert!(!killed(pretrain(&cut, &options), || checkpoint.exists()));
    }
    assert!(killed(pretrain(&cut, &options), || false));
    let last = |run: &Path| content(run.join("checkpoints/step-40"));
    assert_eq!(last(&whole), last(&cut));
    let rows = |run: &Path| json(run.join("stages.json"))[0]["knn_top1"].clone();
    assert_eq!(rows(&whole), rows(&cut));
    fails(
        pretrain(
            &dir.path().join("short"),
            &["--method", "dbot", "--epochs", "3"],
        ),
        &["the last stage of dbot begins at epoch 32"],
    );
}

#[test]
fn bad_settings_are_answered_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let with = |setting: &str| pretrain(&run, &["--set", setting]);
    fails(
        with("mask_rato=0.5"),
        &["mask_rato", "did you mean `mask_ratio`?"],
    );
    fails(with("train.epoch=5"), &["did you mean `epochs`?"]);
    fails(with("mask_ratio=1.2"), &["mask_ratio", "1.2", "below 1"]);
    fails(
        with("encoder.image_size=30"),
        &["30x30", "multiples of the patch size 8"],
    );
    fails(with("encoder.num_heads=3"), &["num_heads"]);
    fails(with("train.optimizer.betas=[0.9, 1.5]"), &["betas"]);
    fails(
        pretrain(&run, &["--lr", "1e-3", "--set", "train.blr=1"]),
        &["only one of them"],
    );
    fails(pretrain(&run, &["--method", "mea"]), &["mae, simmim"]);
    fails(
        pretrain(&run, &["--config", "no-such-file.toml"]),
        &["no-such-file.toml"],
    );
    fails(with("train.batch_size=2000"), &["only 1000 images"]);
    let no_device: &[&str] = match cfg!(feature = "cuda") {
        true => &["CUDA does not provide this device", "--device cpu"],
        false => &["built without CUDA", "--features cuda"],
    };
    fails(pretrain(&run, &["--device", "cuda"]), no_device);
    fails(
        pretrain(&run, &["--device", "tpu"]),
        &["auto, cpu or cuda[:N]"],
    );
    let mut blocks = mim(&["methods"]);
    blocks.env("MIM_MATMUL_BLOCKS", "512,0,4");
    fails(blocks, &["MIM_MATMUL_BLOCKS", "512,0,4", "KiB of columns"]);
    fails(
        mim(&["bench", "op", "depthwise", "--tune"]),
        &["--tune", "only `mim bench op matmul`"],
    );
    assert!(!run.exists(), "a run that cannot start must leave nothing");
    let usage = pretrain(&run, &["--no-such-option"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

fn jpeg(path: &Path, shade: u8) {
    image::RgbImage::from_fn(40, 30, |x, y| {
        image::Rgb([shade, (x * 6) as u8, (y * 8) as u8])
    })
    .save(path)
    .unwrap();
}

#[test]
fn bad_data_is_named_counted_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let run = dir.path().join("run");
    let on = |data: &Path, more: &[&str]| {
        let crop =
            "views={ shared = [{ type = \"random_resized_crop\", size = 32 }], views = [[]] }";
        let mut command = pretrain(
            &run,
            &[
                "--data",
                data.to_str().unwrap(),
                "--epochs",
                "1",
                "--set",
                crop,
            ],
        );
        command.args(["--set", "train.batch_size=8"]).args(more);
        command
    };
    let (empty, notes, photos) = (folder("empty"), folder("notes"), folder("photos"));
    fs::write(notes.join("a.txt"), "no image").unwrap();
    fails(on(&empty, &[]), &["empty"]);
    fails(on(&notes, &[]), &["notes"]);
    fails(on(&dir.path().join("nowhere"), &[]), &["nowhere"]);
    for number in 0..40 {
        jpeg(&photos.join(format!("{number:02}.jpg")), number * 6);
    }
    let good = fs::read(photos.join("00.jpg")).unwrap();
    fs::write(photos.join("17.jpg"), &good[..good.len() / 2]).unwrap();
    let output = on(&photos, &[]).output().unwrap();
    let log = text(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(log.contains("17.jpg") && log.contains("no labels"), "{log}");
    for number in 20..40 {
        fs::write(photos.join(format!("{number}.jpg")), &good[..100]).unwrap();
    }
    fails(on(&photos, &["--overwrite"]), &["jpg"]);
}

#[test]
fn damaged_weights_and_folders_that_cannot_be_written_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    succeeds(pretrain(&run, &["--epochs", "1"]));
    let file = run.join("checkpoints/step-10/student.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    let lengths = [(bytes.len() - 100).to_string(), bytes.len().to_string()];
    fails(
        mim(&["info", file.to_str().unwrap()]),
        &[&lengths[0], &lengths[1], "cut short"],
    );
    fails(
        pretrain(&run, &["--epochs", "2", "--resume", "auto"]),
        &[
            "none of the checkpoints is whole",
            "student.safetensors",
            "damaged",
        ],
    );
    fails(
        mim(&["info", dir.path().to_str().unwrap()]),
        &["no checkpoint here"],
    );
    let blocked = dir.path().join("file");
    fs::write(&blocked, "in the way").unwrap();
    fails(
        pretrain(&blocked.join("run"), &["--epochs", "1"]),
        &["file/run"],
    );
    fails(
        pretrain(
            &run,
            &[
                "--method",
                "simmim",
                "--resume",
                "auto",
                "--set",
                "mask_patch_size=8",
            ],
        ),
        &["`--method` is simmim", "is of mae"],
    );
}
