//! `mim doctor`: what this build and this machine can do, for bug reports.

use std::process::ExitCode;

use candle_core::Device;
use mim_core::{Result, memory, ops};
use serde_json::{Map, Value};

use super::machine;

/// The version of candle, which is part of the public API.
const CANDLE: &str = "0.11.1";

/// Settings of `mim doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Do not ask whether the Hugging Face Hub answers.
    #[arg(long)]
    no_network: bool,
}

/// Prints everything that a bug report needs, and no secrets.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let findings = findings(!args.no_network);
    if args.json {
        let object: Map<String, Value> = findings
            .into_iter()
            .map(|(name, found)| (name.to_owned(), found.into()))
            .collect();
        println!("{}", Value::Object(object));
    } else {
        for (name, found) in findings {
            println!("{name:<13} {found}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn findings(ask_hub: bool) -> Vec<(&'static str, String)> {
    let profile = if cfg!(debug_assertions) {
        "debug build: slow, build with --release"
    } else {
        "release build"
    };
    vec![
        ("mim", format!("{}, {profile}", env!("CARGO_PKG_VERSION"))),
        ("candle", CANDLE.to_owned()),
        ("features", features().join(", ")),
        (
            "system",
            format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        ),
        (
            "processor",
            machine::processor().unwrap_or_else(|| "unknown".to_owned()),
        ),
        ("instructions", ops::cpu_instructions().to_owned()),
        ("threads", threads()),
        ("memory", memory()),
        ("GPU", gpu()),
        ("processes", processes()),
        ("Hub", hub(ask_hub)),
        ("variables", variables()),
    ]
}

/// The features that this program was built with.
fn features() -> Vec<&'static str> {
    [
        ("cli", cfg!(feature = "cli")),
        ("hub", cfg!(feature = "hub")),
        ("hf-hub", cfg!(feature = "hf-hub")),
        ("parquet", cfg!(feature = "parquet")),
        ("candle-transformers", cfg!(feature = "candle-transformers")),
        ("cuda", cfg!(feature = "cuda")),
        ("cudnn", cfg!(feature = "cudnn")),
        ("nccl", cfg!(feature = "nccl")),
        ("mkl", cfg!(feature = "mkl")),
        ("accelerate", cfg!(feature = "accelerate")),
        ("metal", cfg!(feature = "metal")),
        ("mpi", cfg!(feature = "mpi")),
    ]
    .into_iter()
    .filter_map(|(name, built)| built.then_some(name))
    .collect()
}

/// Threads that compute, which `mim` sets for itself where the user did not.
fn threads() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let threads = std::env::var("RAYON_NUM_THREADS").unwrap_or_else(|_| cores.to_string());
    format!("{threads}; {cores} cores available")
}

/// Memory that this process may use, and how much of it is free.
fn memory() -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    match (memory::total(), memory::available()) {
        (Some(all), Some(free)) => {
            let (all, free) = (gib(all), gib(free));
            format!("{all:.1} GiB, {free:.1} GiB available")
        }
        _ => "unknown".to_owned(),
    }
}

fn gpu() -> String {
    if !candle_core::utils::cuda_is_available() {
        return "none: built without CUDA".to_owned();
    }
    let mut found = 0;
    let why = loop {
        match Device::new_cuda(found) {
            Ok(_) => found += 1,
            Err(error) => break super::device::reason(&error),
        }
    };
    match found {
        0 => format!("none usable ({why})"),
        1 => "1 CUDA device".to_owned(),
        _ => format!("{found} CUDA devices"),
    }
}

/// Processes that train together, according to the environment.
fn processes() -> String {
    let set = ["WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok()?)));
    match set {
        Some((name, count)) => format!("{count} ({name})"),
        None => "1".to_owned(),
    }
}

#[cfg(feature = "hub")]
fn hub(ask: bool) -> String {
    use mim_core::hub::{Hub, HubSettings};

    let settings = HubSettings::from_env();
    let answer = match (settings.offline, ask) {
        (true, _) => "not asked: HF_HUB_OFFLINE is set".to_owned(),
        (_, false) => "not asked".to_owned(),
        _ => match Hub::new(settings.clone()).map(|hub| hub.answers()) {
            Ok(Ok(())) => "answers".to_owned(),
            Ok(Err(why)) => format!("does not answer ({why})"),
            Err(error) => error.to_string(),
        },
    };
    let token = match settings.token {
        Some(_) => "a token is set",
        None => "no token",
    };
    let cache = settings.cache.display();
    format!("{answer}; {token}; files in {cache}")
}

#[cfg(not(feature = "hub"))]
fn hub(_ask: bool) -> String {
    "built without the feature hub".to_owned()
}

/// Variables that change what the program does, except those of the Hub. The program sets the first three itself.
fn variables() -> String {
    const NAMES: [&str; 10] = [
        "RAYON_NUM_THREADS",
        "CANDLE_BARRIER_POOL_SPIN_LIMIT",
        "MIMALLOC_PURGE_DELAY",
        "MIM_CPU",
        "MIM_MATMUL_BLOCKS",
        "MIM_CACHE",
        "MIM_MAX_PIXELS",
        "CUDA_VISIBLE_DEVICES",
        "RUST_LOG",
        "RUST_BACKTRACE",
    ];
    let set: Vec<_> = NAMES
        .into_iter()
        .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)))
        .collect();
    match set.is_empty() {
        true => "none set".to_owned(),
        false => set.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_candle_is_that_of_the_workspace() {
        let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock"))
            .expect("Cargo.lock");
        let entry = format!("name = \"candle-core\"\nversion = \"{CANDLE}\"");
        assert!(manifest.contains(&entry), "set CANDLE");
    }

    #[test]
    fn nothing_is_left_unsaid() {
        for (name, found) in findings(false) {
            assert!(!found.is_empty(), "{name}");
        }
    }
}
