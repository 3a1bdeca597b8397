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

/// The second of two steps of a method.
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
        stepper.step(method, &batch, &place, 1e-3).unwrap();
        let mut counts = Counts::new();
        for line in fs::read_to_string(log).unwrap()[before..].lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
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
        let shown: Vec<_> = ["launch", "product", "memset", "to device", "to host"]
            .map(|what| format!("{} {what}", count(&counts, what)))
            .into();
        eprintln!("{file}: {}", shown.join(", "));
        // Losses and terms; sums of squares of at most 8192 values each; the attention that masks follow.
        let trainable = method.stores()[0].1.trainable();
        let squares = trainable
            .iter()
            .map(|(_, var)| 8 * var.elem_count().div_ceil(8192));
        let squares = format!("to host {}", squares.sum::<usize>());
        assert_eq!(counts.get(&squares), Some(&1), "{file}: {counts:?}");
        let losses = (1..8).map(|values| format!("to host {}", 4 * values));
        let losses: usize = losses.filter_map(|line| counts.get(&line)).sum();
        assert_eq!(losses, 1, "{file}");
        let attention = usize::from(["attmask", "custom", "milan"].contains(&file.as_str()));
        assert_eq!(
            count(&counts, "to host"),
            2 + attention,
            "{file}: {counts:?}"
        );
        // Copies to the host wait, nothing else does; and all work is on the stream of one thread.
        assert_eq!(count(&counts, "wait"), 0, "{file}");
        assert_eq!(count(&counts, "another thread"), 0, "{file}");
    }
}

#[test]
fn a_step_reads_losses_and_norms_alone() {
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
