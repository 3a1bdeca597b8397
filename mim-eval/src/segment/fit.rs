//! Training a head on the features of a frozen encoder.

use candle_core::{DType, Device, Tensor};
use mim_core::optim::{AdamW, AdamWConfig, Gradients, Optimizer};
use mim_core::params::ParamStore;
use mim_core::rng::{Purpose, stream};
use mim_core::{Error, Result, Schedule, StepContext, Warmup, ops};
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::SegmentConfig;
use super::axis::{Size, resized};
use super::dataset::{MaskedDataset, MaskedImage};
use super::frozen::{Frozen, Scaler};
use super::head::Head;
use super::windows::{Windows, nearest};

/// Images that are read at a time.
pub(super) const READ: usize = 64;
/// Bytes of features that are kept at most: 32 GiB.
const MOST_BYTES: usize = 32 << 30;
/// Share of the steps in which the learning rate grows.
const WARMUP: f64 = 0.05;

/// What heads learn from: features and masks of windows.
pub(super) struct Lessons {
    /// For each level `[windows, rows, cols, dim]`, on the CPU.
    levels: Vec<Tensor>,
    /// `[windows, height, width]`, row by row.
    masks: Vec<u8>,
    window: Size,
    /// The highest class of all masks, and one more.
    pub(super) classes: usize,
}

/// Some images with their masks, read in parallel.
pub(super) fn read(data: &dyn MaskedDataset, images: &[usize]) -> Result<Vec<MaskedImage>> {
    images.par_iter().map(|index| data.read(*index)).collect()
}

impl Lessons {
    /// The windows of some images side by side, and what the encoder makes of them.
    pub(super) fn collect(
        frozen: &Frozen<'_>,
        windows: &Windows,
        (data, images): (&dyn MaskedDataset, &[usize]),
        config: &SegmentConfig,
    ) -> Result<Self> {
        let side_by_side = Windows {
            stride: windows.size,
            ..*windows
        };
        let (mut parts, mut masks, mut seen) = (Vec::<Vec<Tensor>>::new(), Vec::new(), [false; 256]);
        let mut bytes = 0;
        for chunk in images.chunks(READ) {
            let mut planes = Vec::new();
            for (picture, index) in read(data, chunk)?.into_iter().zip(chunk) {
                if let Some(classes) = config.classes {
                    config.check_classes(classes, &picture.mask, &data.name_of(*index))?;
                }
                picture.mask.iter().for_each(|class| seen[usize::from(*class)] = true);
                let from = picture.image.size();
                let image = side_by_side.prepared(picture.image, frozen.input.channels())?;
                let size = image.size();
                let mask = nearest(&picture.mask, from, size);
                for place in side_by_side.places(size) {
                    side_by_side.cut(&image, place, &mut planes);
                    side_by_side.cut_mask(&mask, size.1, place, &mut masks);
                }
            }
            let levels = frozen.levels(&planes, windows.size)?;
            bytes += levels.iter().map(|maps| 4 * maps.elem_count()).sum::<usize>();
            if bytes > MOST_BYTES {
                let why = format!("the features of more than {} GiB are kept in memory", MOST_BYTES >> 30);
                let fix = format!("use fewer than {} images, or fewer layers", config.max_train.min(images.len()));
                return Err(Error::config("segment", "max_train", config.max_train, why, fix));
            }
            parts.push(levels);
        }
        seen[usize::from(config.ignore_index)] = false;
        let found: Vec<usize> = (0..seen.len()).filter(|class| seen[*class]).collect();
        let (Some(last), true) = (found.last(), found.len() > 1) else {
            let why = format!("the masks of all {} training images have {} class", images.len(), found.len());
            let fix = "give masks of two classes or more, and see that ignore_index is not one of them";
            return Err(Error::unsupported("segmentation with one class", why, fix));
        };
        let level = |level: usize| Ok(Tensor::cat(&parts.iter().map(|part| &part[level]).collect::<Vec<_>>(), 0)?);
        Ok(Self {
            levels: (0..parts[0].len()).map(level).collect::<Result<_>>()?,
            masks,
            window: windows.size,
            classes: config.classes.unwrap_or(last + 1),
        })
    }

    /// Number of windows.
    fn len(&self) -> usize {
        self.masks.len() / (self.window.0 * self.window.1)
    }

    /// Width of the features of each level.
    pub(super) fn dim(&self) -> Result<usize> {
        Ok(self.levels[0].dim(3)?)
    }

    /// What standardises each level, on a device.
    pub(super) fn scalers(&self, device: &Device) -> Result<Vec<Scaler>> {
        let scalers = self.levels.iter();
        scalers.map(|maps| Scaler::fit(maps)?.to_device(device)).collect()
    }

    /// Features and masks of some windows.
    fn batch(&self, windows: &[u32], device: &Device) -> Result<(Vec<Tensor>, Vec<u8>)> {
        let rows = Tensor::new(windows, &Device::Cpu)?;
        let levels = self.levels.iter();
        let levels = levels.map(|maps| Ok(ops::to_device(&maps.index_select(&rows, 0)?, device)?));
        let pixels = self.window.0 * self.window.1;
        let masks = windows.iter().flat_map(|window| &self.masks[*window as usize * pixels..][..pixels]);
        Ok((levels.collect::<Result<_>>()?, masks.copied().collect()))
    }
}

/// Trains a head by AdamW, the learning rate growing and then falling by a half cosine.
pub(super) fn fit(
    lessons: &Lessons,
    (head, store): (&dyn Head, &ParamStore),
    scalers: &[Scaler],
    config: &SegmentConfig,
) -> Result<()> {
    let device = store.device();
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
    let mut order: Vec<u32> = (0..u32::try_from(lessons.len()).unwrap_or(u32::MAX)).collect();
    let batch_size = config.batch_size.min(order.len());
    for epoch in 0..config.epochs {
        order.shuffle(&mut stream(config.seed, Purpose::Shuffle, [epoch as u64, 0]));
        // Batches of one size, for batch norm: the windows left over differ between epochs.
        for (iter, windows) in order.chunks_exact(batch_size).enumerate() {
            let step = StepContext {
                epoch,
                epochs: config.epochs,
                iter,
                iters_per_epoch: order.len() / batch_size,
                ..StepContext::new(config.seed)
            };
            let (levels, masks) = lessons.batch(windows, device)?;
            let levels = levels.iter().zip(scalers).map(|(maps, scaler)| scaler.apply(maps));
            let logits = head.logits(&levels.collect::<Result<Vec<_>>>()?, &step)?;
            let Some(loss) = pixel_loss(&resized(&logits, lessons.window)?, &masks, config.ignore_index)? else {
                continue;
            };
            gradients.clear();
            gradients.backward(&loss)?;
            optimizer.step(&gradients, schedule.at(&step))?;
            if iter == 0 && !loss.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite() {
                return Err(Error::NonFinite {
                    what: "the loss of the segmentation head".into(),
                    step: step.global_iter(),
                    fix: "use a smaller lr".into(),
                });
            }
        }
    }
    Ok(())
}

/// The mean cross-entropy of logits `[batch, height, width, classes]` over the pixels that are not ignored; none if all are.
fn pixel_loss(logits: &Tensor, masks: &[u8], ignored: u8) -> Result<Option<Tensor>> {
    let counts = |class: &u8| *class != ignored;
    let counted = masks.iter().filter(|class| counts(class)).count();
    if counted == 0 {
        return Ok(None);
    }
    let ids: Vec<u32> = masks.iter().map(|class| if counts(class) { (*class).into() } else { 0 }).collect();
    let weights: Vec<f32> = masks.iter().map(|class| f32::from(u8::from(counts(class)))).collect();
    let pixels = masks.len();
    let ids = ops::upload(ids, pixels, logits.device())?;
    let weights = ops::upload(weights, pixels, logits.device())?;
    let losses = ops::cross_entropy(&logits.flatten_to(2)?, &ids, 1.)?;
    Ok(Some(((losses * weights)?.sum_all()? / counted as f64)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    #[test]
    fn ignored_pixels_give_no_loss_and_no_gradient() {
        let logits = Tensor::new(&[[[[1f32, 0.], [0., 2.]], [[5., 5.], [0., 0.]]]], &Device::Cpu).unwrap();
        let logits = Var::from_tensor(&logits).unwrap();
        let loss = pixel_loss(&logits, &[0, 9, 9, 1], 9).unwrap().unwrap();
        // ln(1 + 1/e) and ln 2, of two pixels.
        let wanted = ((1f32 + (-1f32).exp()).ln() + 2f32.ln()) / 2.;
        assert!((loss.to_scalar::<f32>().unwrap() - wanted).abs() < 1e-6);
        let gradients = loss.backward().unwrap();
        let gradient: Vec<f32> = gradients.get(&logits).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(gradient[2..6], [0.; 4]);
        assert!(gradient[0] < 0. && (gradient[6] - 0.25).abs() < 1e-6, "{gradient:?}");
        assert!(pixel_loss(&logits, &[9; 4], 9).unwrap().is_none());
    }
}
