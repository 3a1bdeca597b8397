//! A description of the machine, for reports.

use candle_core::Device;
use serde_json::{Value, json};

/// Processor, available cores, system, and the device of the run.
pub(crate) fn machine(device: &Device) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "processor": processor(),
        "cores": cores,
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "device": format!("{:?}", device.location()),
    })
}

/// The name of the processor, if Linux reports it.
pub(crate) fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}
