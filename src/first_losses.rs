//! A quick check of a custom method.

use mim_core::data::{DataSource, Loader, LoaderConfig, Split};
use mim_core::optim::{AdamWConfig, Clip};
use mim_core::train::Stepper;
use mim_core::{Method, Result, StepContext};

/// The losses of the first `steps` optimizer steps on the embedded images.
///
/// Batches have 16 images, and AdamW has a learning rate of 1e-3. The losses show whether a custom method runs and starts
/// to learn.
///
/// # Errors
///
/// If the method does not fit its views, or has nothing to train.
pub fn first_losses(method: &dyn Method, steps: usize) -> Result<Vec<f64>> {
    let loading = LoaderConfig {
        batch_size: 16,
        ..LoaderConfig::default()
    };
    let images = DataSource::Embedded.open(Split::Train)?;
    let loader = Loader::new(images, method.views(0), loading, 0)?;
    let mut stepper = Stepper::new(method, AdamWConfig::default(), Clip::None)?;
    let mut losses = Vec::with_capacity(steps);
    for (iter, batch) in loader.epoch(0, 0)?.take(steps).enumerate() {
        let step = StepContext {
            iter,
            iters_per_epoch: steps,
            ..StepContext::new(0)
        };
        losses.push(stepper.step(method, &[batch?], &step, 1e-3)?.loss);
    }
    Ok(losses)
}
