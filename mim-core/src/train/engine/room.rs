//! The memory that a run needs at least.

use candle_core::Device;

use crate::train::TrainConfig;
use crate::{Method, Result, memory};

/// Checks that the images of a step fit into the memory, on CPUs beside weights, gradients and the optimizer's two
/// moments. What a step keeps for its backward pass comes on top, and is not counted.
///
/// # Errors
///
/// [`crate::Error::InvalidConfig`] naming `batch_size`.
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
