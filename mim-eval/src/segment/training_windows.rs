//! Training windows: features and masks.

use candle_core::{Device, Tensor};
use mim_core::{Error, Result, ops};
use rayon::prelude::*;

use super::SegmentConfig;
use super::axis::Size;
use super::dataset::{MaskedDataset, MaskedImage};
use super::frozen::{Frozen, Scaler};
use super::windows::{Windows, nearest};

/// Images read at a time.
pub(super) const READ: usize = 64;
/// Maximum bytes of stored features: 32 GiB.
const MOST_BYTES: usize = 32 << 30;

/// Features and masks of windows, for training heads.
pub(super) struct TrainingWindows {
    /// Per level `[windows, rows, cols, dim]`, on the CPU.
    levels: Vec<Tensor>,
    /// `[windows, height, width]`, in row-major order.
    masks: Vec<u8>,
    pub(super) window: Size,
    /// The highest class in all masks, plus one.
    pub(super) classes: usize,
}

/// Reads images with their masks in parallel.
pub(super) fn read(data: &dyn MaskedDataset, images: &[usize]) -> Result<Vec<MaskedImage>> {
    images.par_iter().map(|index| data.read(*index)).collect()
}

impl TrainingWindows {
    /// Collects the windows of some images, without overlap, and their features.
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
        let (mut parts, mut masks, mut seen) = (Vec::new(), Vec::new(), [false; 256]);
        let mut bytes = 0;
        for chunk in images.chunks(READ) {
            let mut planes = Vec::new();
            for (picture, index) in read(data, chunk)?.into_iter().zip(chunk) {
                if let Some(classes) = config.classes {
                    config.check_classes(classes, &picture.mask, &data.name_of(*index))?;
                }
                for class in &picture.mask {
                    seen[usize::from(*class)] = true;
                }
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
            bytes += levels
                .iter()
                .map(|maps| 4 * maps.elem_count())
                .sum::<usize>();
            check_room(bytes, config)?;
            parts.push(levels);
        }
        seen[usize::from(config.ignore_index)] = false;
        let found = count_classes(&seen, images.len())?;
        let level = |level: usize| {
            let parts: Vec<_> = parts
                .iter()
                .map(|part: &Vec<Tensor>| &part[level])
                .collect();
            Ok(Tensor::cat(&parts, 0)?)
        };
        Ok(Self {
            levels: (0..parts[0].len()).map(level).collect::<Result<_>>()?,
            masks,
            window: windows.size,
            classes: config.classes.unwrap_or(found),
        })
    }

    /// Number of windows.
    pub(super) fn len(&self) -> usize {
        self.masks.len() / (self.window.0 * self.window.1)
    }

    /// Feature width of each level.
    pub(super) fn dim(&self) -> Result<usize> {
        Ok(self.levels[0].dim(3)?)
    }

    /// The scaler of each level, on a device.
    pub(super) fn scalers(&self, device: &Device) -> Result<Vec<Scaler>> {
        let scalers = self.levels.iter();
        scalers
            .map(|maps| Scaler::fit(maps)?.to_device(device))
            .collect()
    }

    /// Features and masks of some windows.
    pub(super) fn batch(&self, windows: &[u32], device: &Device) -> Result<(Vec<Tensor>, Vec<u8>)> {
        let rows = Tensor::new(windows, &Device::Cpu)?;
        let levels = self.levels.iter();
        let levels = levels.map(|maps| Ok(ops::to_device(&maps.index_select(&rows, 0)?, device)?));
        let pixels = self.window.0 * self.window.1;
        let masks = windows
            .iter()
            .flat_map(|window| &self.masks[*window as usize * pixels..][..pixels]);
        Ok((levels.collect::<Result<_>>()?, masks.copied().collect()))
    }
}

/// Refuses features that exceed the memory limit.
fn check_room(bytes: usize, config: &SegmentConfig) -> Result<()> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    let why = format!(
        "more than {} GiB of features would be stored in memory",
        MOST_BYTES >> 30
    );
    let fix = "use fewer images, or fewer layers";
    let value = config.max_train;
    Err(Error::config("segment", "max_train", value, why, fix))
}

/// The highest class found, plus one; there must be at least two classes.
fn count_classes(seen: &[bool; 256], images: usize) -> Result<usize> {
    let found = seen.iter().filter(|seen| **seen).count();
    match seen.iter().rposition(|seen| *seen) {
        Some(last) if found > 1 => Ok(last + 1),
        _ => Err(Error::unsupported(
            "segmentation with one class",
            format!("the masks of all {images} training images have {found} class"),
            "use masks with two or more classes, and check that ignore_index is not one of them",
        )),
    }
}
