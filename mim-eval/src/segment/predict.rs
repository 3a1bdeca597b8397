//! Predictions of a head for whole images.

use candle_core::{Device, Tensor};
use mim_core::{Result, StepContext, ops};

use super::SegmentConfig;
use super::axis::{Size, resized};
use super::dataset::MaskedDataset;

use super::frozen::{Frozen, Scaler};
use super::head::Head;
use super::scores::SegmentScores;
use super::training_windows::{READ, read};
use super::windows::Windows;

/// A trained head, and how images are cut into windows.
pub(super) struct Segmenter<'a> {
    pub(super) frozen: &'a Frozen<'a>,
    pub(super) windows: Windows,
    pub(super) head: &'a dyn Head,
    pub(super) scalers: &'a [Scaler],
    pub(super) classes: usize,
    /// Value of pixels without a class, which is never predicted.
    pub(super) ignored: u8,
}

impl Segmenter<'_> {
    /// Compares all images with their masks.
    pub(super) fn scores(
        &self,
        data: &dyn MaskedDataset,
        config: &SegmentConfig,
    ) -> Result<SegmentScores> {
        let mut scores = SegmentScores::new(self.classes);
        let all: Vec<usize> = (0..data.len()).collect();
        for chunk in all.chunks(READ) {
            let (mut planes, mut cut) = (Vec::new(), Vec::new());
            for (picture, index) in read(data, chunk)?.into_iter().zip(chunk) {
                config.check_classes(self.classes, &picture.mask, &data.name_of(*index))?;
                let from = picture.image.size();
                let image = self
                    .windows
                    .prepared(picture.image, self.frozen.input.channels())?;
                let places = self.windows.places(image.size());
                places
                    .iter()
                    .for_each(|place| self.windows.cut(&image, *place, &mut planes));
                cut.push((picture.mask, from, image.size(), places));
            }
            let logits = self.logits(&planes)?;
            let mut first = 0;
            for (mask, from, size, places) in cut {
                let own = logits.narrow(0, first, places.len())?;
                first += places.len();
                let given = self.classes_of(&own, &places, (size, from))?;
                scores.push(&mask, &given, self.ignored)?;
            }
        }
        Ok(scores)
    }

    /// The logits of windows on the head's grid, `[windows, rows, cols, classes]`, on the CPU.
    fn logits(&self, planes: &[u8]) -> Result<Tensor> {
        let (step, (height, width)) = (StepContext::inference(), self.windows.size);
        let values = self.frozen.input.channels() * height * width;
        let mut all = Vec::new();
        for planes in planes.chunks(self.frozen.batch_size * values) {
            let levels = self.frozen.levels(planes, self.windows.size)?;
            let levels = levels
                .iter()
                .zip(self.scalers)
                .map(|(maps, scaler)| scaler.apply(&ops::to_device(maps, self.frozen.device)?));
            let logits = self
                .head
                .logits(&levels.collect::<Result<Vec<_>>>()?, &step)?;
            all.push(logits.detach().to_device(&Device::Cpu)?);
        }
        Ok(Tensor::cat(&all, 0)?)
    }

    /// The class of each pixel of an image at its original size: the logits of its windows, averaged where they
    /// overlap.
    fn classes_of(
        &self,
        logits: &Tensor,
        places: &[Size],
        (size, original): (Size, Size),
    ) -> Result<Vec<u8>> {
        let whole = averaged(&resized(logits, self.windows.size)?, places, size)?;
        let pixels: Vec<f32> = resized(&whole, original)?.flatten_all()?.to_vec1()?;
        let pixels = pixels.chunks_exact(self.classes);
        Ok(pixels.map(|logits| best(logits, self.ignored)).collect())
    }
}

/// The mean over windows `[windows, height, width, classes]` at `places` in an image of `size`,
/// `[1, height, width, classes]`.
fn averaged(windows: &Tensor, places: &[Size], (tall, wide): Size) -> Result<Tensor> {
    let (_, height, width, classes) = windows.dims4()?;
    if (height, width) == (tall, wide) {
        return Ok(windows.narrow(0, 0, 1)?);
    }
    let (mut sums, mut counts) = (vec![0f32; tall * wide * classes], vec![0f32; tall * wide]);
    for (index, (top, left)) in places.iter().enumerate() {
        let values: Vec<f32> = windows.get(index)?.flatten_all()?.to_vec1()?;
        for (row, line) in values.chunks_exact(width * classes).enumerate() {
            let first = (top + row) * wide + left;
            let sums = &mut sums[first * classes..][..line.len()];
            sums.iter_mut()
                .zip(line)
                .for_each(|(sum, value)| *sum += value);
            counts[first..][..width]
                .iter_mut()
                .for_each(|count| *count += 1.);
        }
    }
    for (pixel, count) in sums.chunks_exact_mut(classes).zip(counts) {
        pixel.iter_mut().for_each(|sum| *sum /= count);
    }
    Ok(Tensor::from_vec(
        sums,
        (1, tall, wide, classes),
        &Device::Cpu,
    )?)
}

/// The class with the largest logit, except the ignored one; ties go to the lowest.
fn best(logits: &[f32], ignored: u8) -> u8 {
    let classes = (0..=u8::MAX)
        .zip(logits)
        .filter(|(class, _)| *class != ignored);
    let first = (0, f32::NEG_INFINITY);
    let best = classes.fold(first, |best, (class, logit)| match *logit > best.1 {
        true => (class, *logit),
        false => best,
    });
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_averaged_where_they_overlap() {
        // Two windows of 1 x 2 pixels and one class on a line of three.
        let windows = Tensor::new(&[[[[1f32], [2.]]], [[[4.], [7.]]]], &Device::Cpu).unwrap();
        let whole = averaged(&windows, &[(0, 0), (0, 1)], (1, 3)).unwrap();
        assert_eq!(
            whole.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [1., 3., 7.]
        );
        let one = averaged(&windows.narrow(0, 1, 1).unwrap(), &[(0, 0)], (1, 2)).unwrap();
        assert_eq!(
            one.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [4., 7.]
        );
    }

    #[test]
    fn ties_go_to_the_lower_class_except_the_ignored_one() {
        let of = |logits: &[f32]| best(logits, 255);
        assert_eq!(
            [of(&[1., 1.]), of(&[0., 3., 3.]), of(&[-1., -2.])],
            [0, 1, 0]
        );
        assert_eq!(best(&[9., 1., 2.], 0), 2);
        assert_eq!(best(&[0.; 256], 0), 1);
    }
}
