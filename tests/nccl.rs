//! Training in two processes with a GPU each, as `torchrun` starts them: the gradients of one process, and exact resume.
//!
//! Needs two GPUs, or the pretend device (`scripts/cuda_setup.sh --pretend`) and the variable PRETEND_CUDA_DEVICES=2.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../mim-methods/tests/common/mod.rs"]
mod common;
#[path = "../mim-methods/tests/common/parallel.rs"]
mod parallel;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use common::tiny;
use mim_core::comm::{self, Communicator, Launch, Single};
use mim_core::optim::{AdamWConfig, Clip};
use mim_core::train::Stepper;
use mim_core::{Method, StepContext};
use parallel::{build, differences, first_step, rounded_steps, share};

/// Where the pretend device lists what it is asked for.
const LOG: &str = "PRETEND_CUDA_LOG";
/// Those whose processes exchange more than gradients, and some that do not: the pretend device is slow.
/// `tests/data_parallel.rs` compares every method.
const METHODS: &[&str] = &[
    "mae",
    "sim",
    "cmae",
    "ibot",
    "attmask",
    "bootmae",
    "vqkd",
    "peco_tokenizer",
    "beitv2",
    "mcbeit",
];
/// Names the folder that [`worker`] shall fill.
const FOLDER: &str = "MIM_TEST_FOLDER";

/// Two processes of a program, as `torchrun` would start them; what they print, if both succeed.
fn both(folder: &Path, command: impl Fn() -> Command) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    drop(listener);
    let start = |rank: &str| {
        command()
            .envs([("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2")])
            .envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port)])
            .env("TMPDIR", folder)
            .env(LOG, folder.join(format!("log-{rank}")))
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let [first, mut second] = ["0", "1"].map(start);
    let first = first.wait_with_output().unwrap();
    if !first.status.success() {
        // It would wait for the first one.
        second.kill().unwrap();
    }
    let outputs = [first, second.wait_with_output().unwrap()];
    let said = |output: &Output| {
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        said.concat()
    };
    for output in &outputs {
        assert!(output.status.success(), "{}", said(output));
    }
    outputs.iter().map(said).collect()
}

#[test]
#[ignore = "a part of the other tests, in two processes"]
fn worker() {
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap());
    let launch = Launch::from_env().unwrap().unwrap();
    let device = Device::new_cuda(launch.gpu()).unwrap();
    let comm = comm::join(Some(&launch), &device).unwrap();
    for &name in METHODS {
        let tiny = tiny(name);
        let found = first_step(&tiny, &device, &comm);
        let file = folder.join(format!("{name}-{}.safetensors", launch.rank));
        candle_core::safetensors::save(&found.into_iter().collect(), file).unwrap();
        // The attention that masks follow is waited for, nothing else.
        let waits = waits(build(&tiny, &device).as_ref(), &comm);
        let attention = usize::from(name == "attmask");
        assert!(waits.is_none_or(|waits| waits == attention), "{name}");
    }
    comm.leave();
}

/// How often the host waits in the second step of a method; known of the pretend device alone.
fn waits(method: &dyn Method, comm: &Arc<dyn Communicator>) -> Option<usize> {
    let log = std::env::var_os(LOG).unwrap();
    let clip = Clip::Global { max_norm: 1. };
    let mut stepper = Stepper::new(method, AdamWConfig::default(), clip).unwrap();
    let device = method.stores()[0].1.device().clone();
    let batch = [share(method, comm.as_ref()).to_device(&device).unwrap()];
    let mut step = |iter| {
        let place = StepContext {
            iter,
            iters_per_epoch: 2,
            comm: comm.clone(),
            ..StepContext::new(5)
        };
        let before = fs::read_to_string(&log).ok()?.len();
        let started = stepper.start(method, &batch, &place, 1e-3).unwrap();
        let said = fs::read_to_string(&log).ok()?.split_off(before);
        started.wait().unwrap();
        let waits = |line: &&str| line.starts_with("wait") || line.starts_with("to host");
        Some(said.lines().filter(waits).count())
    };
    step(0);
    step(1)
}

#[test]
fn two_processes_give_the_gradients_of_one() {
    let folder = tempfile::tempdir().unwrap();
    both(folder.path(), || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "worker"]);
        command.env(FOLDER, folder.path());
        command
    });
    let gpu = Device::new_cuda(0).unwrap();
    let mut wrong = Vec::new();
    for &name in METHODS {
        let tiny = tiny(name);
        let one: Arc<dyn Communicator> = Arc::new(Single);
        let wanted = first_step(&tiny, &gpu, &one);
        let rounded = rounded_steps(&tiny, &gpu);
        for rank in 0..2 {
            let file = folder.path().join(format!("{name}-{rank}.safetensors"));
            let found: BTreeMap<String, Tensor> =
                candle_core::safetensors::load(file, &Device::Cpu)
                    .unwrap()
                    .into_iter()
                    .collect();
            let found: Vec<_> = wanted
                .iter()
                .map(|(name, _)| (name.clone(), found[name].clone()))
                .collect();
            wrong.extend(differences(&tiny, &found, &wanted, &rounded));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_resumed_run_of_two_processes_equals_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| {
        let said = both(folder.path(), || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
            command.args(["pretrain", "--device", "cuda", "--threads", "1"]);
            command.args(["--batch-size", "250", "--set", "train.keep_checkpoints=9"]);
            command.args(["--set", "eval.finetune_epochs=0"]);
            let encoder =
                "image_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2";
            let decoder = "embed_dim = 8, depth = 1, num_heads = 2";
            command.args(["--set", &format!("encoder={{ {encoder} }}")]);
            command.args(["--set", &format!("decoder={{ {decoder} }}")]);
            command.arg("--output-dir").arg(folder.path().join(name));
            command.args(more);
            command
        });
        // Rank 0 alone speaks.
        assert!(said[0].contains("steps in 2 processes"), "{}", said[0]);
        assert!(!said[1].contains("epoch"), "{}", said[1]);
        let checkpoint = folder.path().join(name).join("checkpoints/step-4");
        let files = fs::read_dir(checkpoint)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let read = |file: PathBuf| (file.file_name().unwrap().into(), fs::read(&file).unwrap());
        let found: BTreeMap<PathBuf, Vec<u8>> = files.map(read).collect();
        assert!(found.len() >= 3, "{:?}", found.keys());
        found
    };
    let whole = run("whole", &["--epochs", "2"]);
    let [from, to] = ["whole", "cut"].map(|name| folder.path().join(name));
    fs::create_dir_all(to.join("checkpoints/step-2")).unwrap();
    let middle = [
        "checkpoints/step-2/state.json",
        "checkpoints/step-2/optimizer.safetensors",
        "checkpoints/step-2/student.safetensors",
        "config.toml",
        "log.jsonl",
    ];
    for file in middle {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let cut = run("cut", &["--resume", "auto"]);
    // Not assert_eq: a failure would print the files.
    assert!(whole == cut);
}
