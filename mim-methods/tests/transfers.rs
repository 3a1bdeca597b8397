//! What a training step copies between host and device, by the list that the pretend device keeps
//! (`scripts/cuda_setup.sh --pretend`).
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use candle_core::Device;
use common::images;
use mim_core::optim::{AdamWConfig, Clip};
use mim_core::train::Stepper;
use mim_core::{Method, StepContext};

/// Where the pretend device lists what it is asked for.
const LOG: &str = "PRETEND_CUDA_LOG";

/// What a step was seen to ask for, by line of the list.
type Counts = BTreeMap<String, usize>;

/// The second of two steps of a method, asked for and not waited for.
fn second_step(method: &dyn Method, log: &Path) -> Counts {
    let clip = Clip::Global { max_norm: 0.5 };
    let mut stepper = Stepper::new(method, AdamWConfig::default(), clip).unwrap();
    let batch = [images(method)];
    let mut step = |iter| {
        let place = StepContext {
            iter,
            iters_per_epoch: 2,
            ..StepContext::new(3)
        };
        let before = fs::read_to_string(log).unwrap().len();
        let started = stepper.start(method, &batch, &place, 1e-3).unwrap();
        let mut counts = Counts::new();
        for line in fs::read_to_string(log).unwrap()[before..].lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        started.wait().unwrap();
        counts
    };
    step(0);
    step(1)
}

/// How many lines begin like this.
fn count(counts: &Counts, start: &str) -> usize {
    let known = counts.iter().filter(|(line, _)| line.starts_with(start));
    known.map(|(_, count)| count).sum()
}

#[test]
#[ignore = "a part of the other test, with the list switched on"]
fn worker() {
    let log = env::var_os(LOG).unwrap();
    let gpu = Device::new_cuda(0).unwrap();
    for tiny in common::all() {
        let method = tiny.build_on(&gpu, 1);
        let counts = second_step(method.as_ref(), log.as_ref());
        let file = &tiny.file;
        let kinds = [
            "launch",
            "product",
            "memset",
            "to device",
            "pinned to device",
            "to host",
            "pinned to host",
        ];
        let shown: Vec<_> = kinds
            .map(|what| format!("{} {what}", count(&counts, what)))
            .into();
        eprintln!("{file}: {}", shown.join(", "));
        // Points are grouped on the host.
        if file == "i2pmae" {
            continue;
        }
        // The sum of squares of each gradient, and losses and terms, for a report that is read later.
        let sums = format!(
            "pinned to host {}",
            8 * method.stores()[0].1.trainable().len()
        );
        assert_eq!(counts.get(&sums), Some(&1), "{file}: {counts:?}");
        let losses = (1..8).map(|values| format!("pinned to host {}", 4 * values));
        let losses: usize = losses
            .filter(|line| *line != sums)
            .filter_map(|line| counts.get(&line))
            .sum();
        assert_eq!(losses, 1, "{file}: {counts:?}");
        assert_eq!(count(&counts, "pinned to host"), 2, "{file}: {counts:?}");
        // The attention that masks follow, which alone is waited for. SemMAE's part maps follow it too.
        let attention = match file.as_str() {
            "attmask" | "custom" | "milan" => 1,
            "semmae" => 2,
            _ => 0,
        };
        assert_eq!(count(&counts, "to host"), attention, "{file}: {counts:?}");
        // Through other memory go only shapes of what candle's own kernels read.
        for line in counts.keys() {
            let bytes = line.strip_prefix("to device ");
            let bytes: usize = bytes.map_or(0, |bytes| bytes.parse().unwrap());
            assert!(bytes <= 160, "{file}: {line}");
        }
        // All work is on the stream of one thread, and memory for copies is used again.
        for never in ["wait", "another thread", "pins"] {
            assert_eq!(count(&counts, never), 0, "{file}: {never}");
        }
    }
}

#[test]
fn a_step_waits_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let output = Command::new(env::current_exe().unwrap())
        .args(["worker", "--exact", "--ignored", "--nocapture"])
        .env(LOG, &log)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        log.exists(),
        "this is not the pretend device, which alone keeps a list"
    );
    assert!(output.status.success(), "{said}");
    eprintln!("{said}");
}
