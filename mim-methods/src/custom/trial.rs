//! Runs a composed method on one batch of noise, to find parts that do not fit.

use std::sync::Arc;

use candle_core::Device;
use mim_core::data::{Loader, LoaderConfig, MemoryDataset};
use mim_core::rng::{Purpose, stream};
use mim_core::{Error, Method, Result, StepContext};
use rand::RngExt;

use crate::Composite;

/// Images per batch: enough that counts which vary per image differ.
const IMAGES: usize = 4;

/// Runs the forward pass.
///
/// # Errors
///
/// The error of the part that fails, with the method's name.
pub(super) fn run(method: &Composite, device: &Device) -> Result<()> {
    let (size, channels) = (method.input().size, method.input().channels());
    let mut rng = stream(0, Purpose::Method, [0, 0]);
    let bytes = IMAGES * size.height * size.width * channels;
    let pixels = (0..bytes).map(|_| rng.random()).collect();
    let noise = MemoryDataset::new(pixels, (size.height, size.width), channels)?;
    let loading = LoaderConfig {
        batch_size: IMAGES,
        workers: 0,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(Arc::new(noise), method.views(0), loading, 0)?;
    for batch in loader.sequential()? {
        let loss = method.forward(&batch?.to_device(device)?, &StepContext::new(0));
        loss.and_then(|terms| terms.total()).map_err(unfit)?;
    }
    Ok(())
}

/// Adds to an error that the parts of a method do not fit.
fn unfit(error: Error) -> Error {
    match error {
        Error::Unsupported { what, why, fix } => Error::Unsupported {
            what: format!("{what}, as this composition asks,").into(),
            why,
            fix,
        },
        other => other,
    }
}
