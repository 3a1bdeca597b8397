//! Training a head on the features of a frozen encoder.

use candle_core::{DType, Tensor};
use mim_core::optim::{AdamW, AdamWConfig, Gradients, Optimizer};
use mim_core::params::ParamStore;
use mim_core::rng::{Purpose, stream};
use mim_core::{Error, Result, Schedule, StepContext, Warmup, ops};
use rand::seq::SliceRandom;

use super::SegmentConfig;
use super::axis::resized;
use super::frozen::Scaler;
use super::head::Head;
use super::training_windows::TrainingWindows;

/// Share of the steps with a growing learning rate.
const WARMUP: f64 = 0.05;

/// Trains a head by AdamW with linear warm-up and half-cosine decay.
pub(super) fn fit(
    training: &TrainingWindows,
    (head, store): (&dyn Head, &ParamStore),
    scalers: &[Scaler],
    config: &SegmentConfig,
) -> Result<()> {
    let optimizer = AdamWConfig {
        betas: [0.9, 0.999],
        weight_decay: config.weight_decay,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(optimizer, store.trainable())?;
    let mut gradients = Gradients::new(store.trainable());
    let schedule = Schedule::WarmupCosine {
        peak: config.lr,
        min: 0.,
        warmup: Warmup::Share(WARMUP),
    };
    let mut order: Vec<u32> = (0..u32::try_from(training.len()).unwrap_or(u32::MAX)).collect();
    let batch_size = config.batch_size.min(order.len());
    for epoch in 0..config.epochs {
        order.shuffle(&mut stream(
            config.seed,
            Purpose::Shuffle,
            [epoch as u64, 0],
        ));
        // Batches of equal size, for batch norm; the dropped windows differ between epochs.
        for (iter, windows) in order.chunks_exact(batch_size).enumerate() {
            let step = StepContext {
                epoch,
                epochs: config.epochs,
                iter,
                iters_per_epoch: order.len() / batch_size,
                ..StepContext::new(config.seed)
            };
            let (levels, masks) = training.batch(windows, store.device())?;
            let levels = levels.iter().zip(scalers);
            let levels = levels.map(|(maps, scaler)| scaler.apply(maps));
            let logits = head.logits(&levels.collect::<Result<Vec<_>>>()?, &step)?;
            let logits = resized(&logits, training.window)?;
            let Some(loss) = pixel_loss(&logits, &masks, config.ignore_index)? else {
                continue;
            };
            // Once per epoch, since reading a number waits for the device.
            if iter + 1 == step.iters_per_epoch {
                check_finite(&loss, &step)?;
            }
            gradients.clear();
            gradients.backward(&loss)?;
            optimizer.step(&gradients, schedule.at(&step))?;
        }
    }
    Ok(())
}

/// Refuses a loss that is infinite or NaN.
fn check_finite(loss: &Tensor, step: &StepContext) -> Result<()> {
    match loss.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite() {
        true => Ok(()),
        false => Err(Error::NonFinite {
            what: "the loss of the segmentation head".into(),
            step: step.global_iter(),
            fix: "use a smaller lr".into(),
        }),
    }
}

/// The mean cross-entropy of logits `[batch, height, width, classes]` over pixels that are not ignored; `None` if all
/// are.
fn pixel_loss(logits: &Tensor, masks: &[u8], ignored: u8) -> Result<Option<Tensor>> {
    let counts = |class: &u8| *class != ignored;
    let counted = masks.iter().filter(|class| counts(class)).count();
    if counted == 0 {
        return Ok(None);
    }
    let ids: Vec<u32> = masks
        .iter()
        .map(|class| if counts(class) { (*class).into() } else { 0 })
        .collect();
    let weights: Vec<f32> = masks
        .iter()
        .map(|class| f32::from(u8::from(counts(class))))
        .collect();
    let pixels = masks.len();
    let ids = ops::upload(ids, pixels, logits.device())?;
    let weights = ops::upload(weights, pixels, logits.device())?;
    let losses = ops::cross_entropy(&logits.flatten_to(2)?, &ids, 1.)?;
    Ok(Some(((losses * weights)?.sum_all()? / counted as f64)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn ignored_pixels_give_no_loss_and_no_gradient() {
        let logits = Tensor::new(
            &[[[[1f32, 0.], [0., 2.]], [[5., 5.], [0., 0.]]]],
            &Device::Cpu,
        )
        .unwrap();
        let logits = Var::from_tensor(&logits).unwrap();
        let loss = pixel_loss(&logits, &[0, 9, 9, 1], 9).unwrap().unwrap();
        // ln(1 + 1/e) and ln 2, of two pixels.
        let wanted = ((1f32 + (-1f32).exp()).ln() + 2f32.ln()) / 2.;
        assert!((loss.to_scalar::<f32>().unwrap() - wanted).abs() < 1e-6);
        let gradients = loss.backward().unwrap();
        let gradient: Vec<f32> = gradients
            .get(&logits)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert_eq!(gradient[2..6], [0.; 4]);
        assert!(
            gradient[0] < 0. && (gradient[6] - 0.25).abs() < 1e-6,
            "{gradient:?}"
        );
        assert!(pixel_loss(&logits, &[9; 4], 9).unwrap().is_none());
    }
}
