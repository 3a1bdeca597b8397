//! The minimum memory of a run.

use candle_core::Device;

use crate::train::TrainConfig;
use crate::{Method, Result, memory};

/// Checks that the images of a step fit into memory, on CPUs together with weights, gradients and the two moments of the
/// optimizer. Values stored for the backward pass are not counted.
///
/// # Errors
///
/// [`Error::InvalidConfig`](crate::Error::InvalidConfig) naming `batch_size`.
pub(super) fn check(method: &dyn Method, config: &TrainConfig, device: &Device) -> Result<()> {
    let stores = method.stores();
    let held = match (device, stores.first()) {
        (Device::Cpu, Some((_, student))) => {
            let vars = stores.iter().flat_map(|(_, store)| store.vars());
            let values: usize = vars.map(|(_, var)| var.elem_count()).sum();
            values + 3 * student.trainable_values()
        }
        _ => 0,
    };
    let input = method.input();
    let (height, width) = (input.size.height, input.size.width);
    let shape = [config.batch_size, input.channels(), height, width];
    memory::check(("train", "batch_size"), &shape, held).map(drop)
}
