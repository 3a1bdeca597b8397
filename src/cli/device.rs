//! Devices and threads.

use std::process::Command;

use candle_core::Device;
use mim_core::ops::MatmulBlocks;
use mim_core::{Error, Result};

/// Devices, as shown in every help text.
pub(crate) const HELP: &str = "auto, cpu or cuda[:N]";

/// The device called `name`.
pub(crate) fn open(name: &str) -> Result<Device> {
    let unknown = || {
        Error::config(
            "command line",
            "--device",
            name,
            "there is no such device",
            format!("use {HELP}"),
        )
    };
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", _) => Ok(Device::Cpu),
        ("auto", _) if !candle_core::utils::cuda_is_available() => Ok(Device::Cpu),
        ("auto", _) => Device::new_cuda(0).or_else(|error| {
            tracing::warn!(
                "no CUDA device can be used ({}): using the CPU",
                reason(&error)
            );
            Ok(Device::Cpu)
        }),
        ("cuda", _) if !candle_core::utils::cuda_is_available() => Err(Error::unsupported(
            format!("--device {name}"),
            "this program was built without CUDA",
            "build it with --features cuda, or use --device cpu",
        )),
        ("cuda", number) => {
            let number = number.parse().map_err(|_| unknown())?;
            Device::new_cuda(number).map_err(|error| {
                Error::unsupported(
                    format!("--device {name}"),
                    format!("CUDA does not provide this device ({})", reason(&error)),
                    "check that nvidia-smi lists the GPU, or use --device cpu",
                )
            })
        }
        _ => Err(unknown()),
    }
}

/// What went wrong, without the backtrace that candle adds to its errors on request.
pub(crate) fn reason(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The variable that sets the size of the thread pools of candle and rayon.
const THREADS: &str = "RAYON_NUM_THREADS";
/// Other variables that libraries read at the start of the program, unless the user has set them.
const DEFAULTS: [(&str, &str); 2] = [
    // How often a waiting thread of candle's own pool looks for work before it sleeps. By default these threads
    // spin and take cores from the threads that compute, which makes a small step a quarter slower.
    ("CANDLE_BARRIER_POOL_SPIN_LIMIT", "0"),
    // The program keeps freed memory. Every step needs the same amount again, and the system clears each
    // page that it hands out, which takes a third of the time of a step.
    ("MIMALLOC_PURGE_DELAY", "-1"),
];

/// Restarts the program with the requested number of threads and [`DEFAULTS`] in its environment, unless they
/// are set already.
///
/// candle reads the number once, from the environment only, and counts physical cores without it.
///
/// # Errors
///
/// [`Error::InvalidConfig`] for far more threads than there are cores: a step would never end.
pub(crate) fn pin_threads(wanted: Option<usize>) -> Result<()> {
    let now = std::env::var(THREADS)
        .ok()
        .and_then(|number| number.parse::<usize>().ok());
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let most = (16 * available).max(512);
    if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
        let why = format!("there are {available} cores");
        let fix = format!("use {most} or less");
        return Err(Error::config("command line", "--threads", wanted, why, fix));
    }
    let wanted = wanted.or(now).unwrap_or(available).max(1);
    let mut missing = DEFAULTS
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none())
        .peekable();
    if now == Some(wanted) && missing.peek().is_none() {
        return Ok(());
    }
    let Ok(program) = std::env::current_exe() else {
        return Ok(());
    };
    let mut again = Command::new(program);
    again
        .args(std::env::args_os().skip(1))
        .env(THREADS, wanted.to_string())
        .envs(missing);
    restart(again);
    Ok(())
}

#[cfg(unix)]
fn restart(mut again: Command) {
    use std::os::unix::process::CommandExt;
    // This returns only on failure; then the default number of threads has to do.
    tracing::warn!("cannot set the number of threads: {}", again.exec());
}

#[cfg(not(unix))]
fn restart(mut again: Command) {
    match again.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => tracing::warn!("cannot set the number of threads: {error}"),
    }
}

/// Makes the calling thread one of the threads that compute.
///
/// Otherwise each operation is handed to another thread, and the caller sleeps until it is done. Small models have
/// thousands of operations a second. One thread alone stays out: it could wait for a loader that waits for it.
pub(super) fn join_pool() {
    let threads = std::env::var(THREADS)
        .ok()
        .and_then(|number| number.parse().ok());
    if let Some(threads @ 2..) = threads {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .use_current_thread();
        if let Err(error) = pool.build_global() {
            tracing::debug!("another thread computes for this one: {error}");
        }
    }
}

/// The variable that sets the blocks of matrix products.
pub(super) const BLOCKS: &str = "MIM_MATMUL_BLOCKS";

/// Takes the blocks of matrix products from [`BLOCKS`], if it is set.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if its value cannot be read.
pub(super) fn set_blocks() -> Result<()> {
    let Some(value) = std::env::var_os(BLOCKS).filter(|value| !value.is_empty()) else {
        return Ok(());
    };
    let value = value.to_string_lossy();
    let blocks: MatmulBlocks = value.parse().map_err(|_| {
        let why =
            "it is not KiB of rows, KiB of columns (1 to 1048576) and parts per thread (1 to 64)";
        let fix = format!("write it as {}", MatmulBlocks::of_this_cpu());
        Error::config("environment", BLOCKS, &value, why, fix)
    })?;
    blocks.apply();
    Ok(())
}
