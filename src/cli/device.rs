//! Devices and threads.

use std::process::Command;

use candle_core::Device;
use mim_core::{Error, Result};

/// Devices in the help of every verb.
pub(crate) const HELP: &str = "auto, cpu or cuda[:N]";

/// The device called `name`.
pub(crate) fn open(name: &str) -> Result<Device> {
    let unknown = || {
        Error::config(
            "command line",
            "--device",
            name,
            "it names no device",
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
                    format!("CUDA gives no such device ({})", reason(&error)),
                    "see whether nvidia-smi lists the GPU, or use --device cpu",
                )
            })
        }
        _ => Err(unknown()),
    }
}

/// What went wrong, without the backtrace that candle's errors bring along where one is asked for.
pub(crate) fn reason(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The variable that candle and rayon size their pools by.
const THREADS: &str = "RAYON_NUM_THREADS";
/// What else libraries read from the environment when the program starts, unless the user set it.
const DEFAULTS: [(&str, &str); 2] = [
    // How often a waiting thread of candle's own pool looks for work before it sleeps. By default they
    // spin and take the cores from the threads that compute: a small step then needs a quarter more time.
    ("CANDLE_BARRIER_POOL_SPIN_LIMIT", "0"),
    // Freed memory stays with the program. Each step needs the same again, and the system clears every
    // page that it hands out: a third of the time of a step.
    ("MIMALLOC_PURGE_DELAY", "-1"),
];

/// Starts the program again with the wanted number of threads and [`DEFAULTS`] in its environment, if they
/// are not there yet.
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
    // Only comes back if it failed; the default number of threads is then good enough.
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
    let threads = std::env::var(THREADS).ok().and_then(|number| number.parse().ok());
    if let Some(threads @ 2..) = threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread();
        if let Err(error) = pool.build_global() {
            tracing::debug!("another thread computes for this one: {error}");
        }
    }
}
