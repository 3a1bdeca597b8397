//! Evaluation of a classifier trained with labels.

use std::sync::Arc;

use candle_core::{DType, Device};
use mim_core::data::{Dataset, Loader};
use mim_core::{Classifier, Error, Input, Result, StepContext};

use crate::{EvalConfig, Scores};

/// Scores all images of `dataset`, prepared by `config`, with `classifier`.
///
/// # Errors
///
/// [`Error::Unsupported`] if the images have no labels; otherwise errors of the loader and the network.
pub fn classify(
    classifier: &dyn Classifier,
    dataset: Arc<dyn Dataset>,
    input: &Input,
    device: &Device,
    config: &EvalConfig,
) -> Result<Scores> {
    config.check()?;
    let plan = config.view_plan(input.size, input.channels());
    let loader = Loader::new(dataset, plan, config.loader(), 0)?;
    let (step, mut scores) = (StepContext::inference(), Scores::default());
    for batch in loader.sequential()? {
        let batch = batch?;
        let labels = batch.labels.as_ref().ok_or_else(|| {
            Error::unsupported(
                "measuring a classifier",
                "the images have no labels",
                "use a data set with labels",
            )
        })?;
        let images = batch.view(0)?.to_device(device)?.normalized(&input.norm)?;
        let logits = classifier.logits(&images, &step)?.to_dtype(DType::F64)?;
        let labels: Vec<u32> = labels.to_dtype(DType::U32)?.to_vec1()?;
        for (row, label) in logits.to_vec2::<f64>()?.iter().zip(labels) {
            scores.push(label, row);
        }
    }
    Ok(scores)
}
