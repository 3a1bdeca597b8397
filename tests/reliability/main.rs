//! Nothing is lost and nothing is wrong in silence: faults of files, damage, closed streams, signals.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod damage;
mod faults;
mod features;
mod streams;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::{Rgb, RgbImage};
use serde_json::Value;

/// A MAE of a thousand parameters on images of 16 pixels.
const TINY: &[&str] = &[
    "--set",
    "encoder={ image_size = 16, patch_size = 8, embed_dim = 8, depth = 1, num_heads = 2 }",
    "--set",
    "decoder={ embed_dim = 8, depth = 1, num_heads = 2 }",
    "--batch-size",
    "4",
    "--threads",
    "1",
    "--workers",
    "0",
];

fn mim(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    command.args(args).stdin(Stdio::null());
    command
}

/// A run of two steps an epoch on the images below `dir`, which are made if they are not there.
fn pretrain(dir: &Path, run: &str, more: &[&str]) -> Command {
    let folder = dir.join("images");
    if !folder.exists() {
        images(&folder);
    }
    let data = format!("folder:{}", folder.display());
    let mut command = mim(&["pretrain", "--data", &data, "--output-dir"]);
    command.arg(dir.join(run)).args(TINY).args(more);
    command
}

/// Eight images to train on and four others, of two classes.
fn images(folder: &Path) {
    for (split, count) in [("train", 4), ("val", 2)] {
        for (class, red) in [("a", 20), ("b", 120)] {
            let folder = folder.join(split).join(class);
            fs::create_dir_all(&folder).unwrap();
            for image in 0..count {
                let path = folder.join(format!("{image}.png"));
                let colour = |x, y| Rgb([red, 30 * image, 90].map(|value| value + 3 * x + 2 * y));
                let drawn = RgbImage::from_fn(16, 16, |x, y| colour(x as u8, y as u8));
                drawn.save(path).unwrap();
            }
        }
    }
}

/// Builds `preload.c`, which lets a change of a file fail.
fn preload(dir: &Path) -> PathBuf {
    let library = dir.join("preload.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reliability/preload.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]);
    compiler.arg(&library).arg(source).arg("-ldl");
    assert!(compiler.status().unwrap().success(), "no C compiler");
    library
}

fn succeeds(output: &Output) -> String {
    let errors = errors(output);
    assert!(output.status.success(), "{errors}");
    errors
}

/// What a program printed on standard error, if it did not panic.
fn errors(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

/// Every file of a folder with its bytes, or those of a file.
fn content(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    if path.is_file() {
        return vec![(PathBuf::new(), fs::read(path).unwrap())];
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let name = PathBuf::from(entry.file_name());
        let inner = content(&entry.path()).into_iter();
        all.extend(inner.map(|(path, bytes)| (name.join(path), bytes)));
    }
    all.sort();
    all
}

/// The log without what depends on the machine.
fn log(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let line = |line| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("images_per_s");
        record
    };
    text.lines().map(line).collect()
}
