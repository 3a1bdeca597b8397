//! `reconstruction.png`.

use std::path::Path;
use std::sync::Arc;

use crate::RunConfig;
use mim_core::data::{Dataset, Loader, LoaderConfig, Subset};
use mim_core::{Error, Method, Reconstruction, Result, StepContext};
use mim_eval::{reconstruction_grid, save_png};

/// Writes a PNG file with `count` images, spread over the data set: original, masked, reconstruction.
pub(crate) fn draw(
    config: &RunConfig,
    method: &dyn Method,
    images: Arc<dyn Dataset>,
    (count, seed): (usize, u64),
    path: &Path,
) -> Result<()> {
    let (input, count) = (method.input(), count.min(images.len()));
    let spread = (0..count).map(|index| index * images.len() / count.max(1));
    let images = Arc::new(Subset::new(images.clone(), spread.collect())?);
    let plan = config.eval.view_plan(input.size, input.channels());
    let loading = LoaderConfig {
        batch_size: count.max(1),
        workers: 0,
        ..LoaderConfig::default()
    };
    let mut batches = Loader::new(images, plan, loading, seed)?.sequential()?;
    let batch = batches
        .next()
        .ok_or_else(|| Error::format(path, "there is no image to draw", "give images"))??;
    let device = method
        .stores()
        .first()
        .map_or(candle_core::Device::Cpu, |(_, store)| {
            store.device().clone()
        });
    let step = StepContext {
        seed,
        ..StepContext::inference()
    };
    let drawn = method.reconstruct(&batch.to_device(&device)?, &step)?;
    let reconstruction = Reconstruction {
        original: config.data.shown(&drawn.original)?,
        masked: config.data.shown(&drawn.masked)?,
        reconstruction: config.data.shown(&drawn.reconstruction)?,
    };
    save_png(
        &reconstruction_grid(&reconstruction, count.div_ceil(2), 2)?,
        path,
    )
}
