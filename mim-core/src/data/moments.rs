//! Mean, deviation and range of each channel of a data set.

use rand::Rng;
use rayon::prelude::*;

use super::Dataset;
use crate::augment::{ImageOp, Sample, ToChannels};
use crate::rng::{Purpose, stream};
use crate::{Error, Result};

/// Images whose results are kept before they are joined.
const BLOCK: usize = 1024;

/// Mean, deviation and range of each channel over all pixels of images, in f64.
///
/// Results of single images are combined in the order of the images. So the result does not depend on the number of
/// threads, and memory does not grow with the data. Two results are combined as in Chan, Golub, LeVeque (The American
/// Statistician 1983).
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelMoments {
    images: usize,
    /// Pixels of each channel.
    pixels: f64,
    mean: Vec<f64>,
    /// Sums of squared distances from the mean.
    squares: Vec<f64>,
    range: Vec<[f64; 2]>,
}

impl ChannelMoments {
    /// Measures the images at `indices` of a data set, converted to `channels` channels. Images that cannot be read are
    /// left out, and their errors are returned.
    ///
    /// # Errors
    ///
    /// If no image can be read, or one has another number of channels and cannot be converted.
    pub fn of(
        images: &dyn Dataset,
        indices: &[usize],
        channels: usize,
    ) -> Result<(Self, Vec<Error>)> {
        let mut all: Option<Self> = None;
        let mut unreadable = Vec::new();
        for block in indices.chunks(BLOCK) {
            let of_one = |index: &usize| match images.read(*index) {
                Ok(sample) => Ok(Self::of_sample(sample, channels)?),
                Err(error) => Ok(Err(error)),
            };
            let measured: Vec<Result<Result<Self>>> = block.par_iter().map(of_one).collect();
            for one in measured {
                match (one?, &mut all) {
                    (Ok(one), Some(all)) => all.join(&one),
                    (Ok(one), None) => all = Some(one),
                    (Err(error), _) => unreadable.push(error),
                }
            }
        }
        match (all, unreadable.pop()) {
            (Some(all), last) => {
                unreadable.extend(last);
                Ok((all, unreadable))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::unsupported(
                "measuring images",
                "there are none",
                "give images",
            )),
        }
    }

    /// Those of one image; the inner error is for one that is no image.
    fn of_sample(sample: Sample, channels: usize) -> Result<Result<Self>> {
        if sample.is_cloud() {
            return Ok(Err(Error::unsupported(
                "measuring channels",
                "the data are point clouds",
                "give images",
            )));
        }
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        let rng: &mut dyn Rng = &mut rng;
        let sample = ToChannels { channels }.apply(sample, rng)?;
        let (height, width) = sample.size();
        let mut moments = Self {
            images: 1,
            pixels: (height * width) as f64,
            mean: Vec::with_capacity(channels),
            squares: Vec::with_capacity(channels),
            range: Vec::with_capacity(channels),
        };
        for channel in 0..channels {
            let at = [channel, channels];
            match sample.is_deep() {
                true => moments.add(sample.values(), at, |value| f64::from(*value)),
                false => moments.add(sample.pixels(), at, |byte| f64::from(*byte) / 255.),
            }
        }
        Ok(Ok(moments))
    }

    /// Adds a channel of one image with this many.
    fn add<T>(
        &mut self,
        interleaved: &[T],
        [channel, channels]: [usize; 2],
        value: impl Fn(&T) -> f64,
    ) {
        let values = || {
            let values = interleaved.iter().skip(channel).step_by(channels);
            values.map(&value)
        };
        let mean = values().sum::<f64>() / self.pixels;
        self.mean.push(mean);
        let squares = values().map(|value| (value - mean) * (value - mean));
        self.squares.push(squares.sum());
        let ends = [f64::INFINITY, f64::NEG_INFINITY];
        let range = values().fold(ends, |[low, high], value| [low.min(value), high.max(value)]);
        self.range.push(range);
    }

    /// Adds other images of as many channels.
    fn join(&mut self, other: &Self) {
        let pixels = self.pixels + other.pixels;
        let (share, between) = (other.pixels / pixels, self.pixels * other.pixels / pixels);
        for channel in 0..self.mean.len() {
            let distance = other.mean[channel] - self.mean[channel];
            self.mean[channel] += distance * share;
            self.squares[channel] += other.squares[channel] + distance * distance * between;
            let [low, high] = other.range[channel];
            let range = &mut self.range[channel];
            *range = [range[0].min(low), range[1].max(high)];
        }
        self.images += other.images;
        self.pixels = pixels;
    }

    /// Number of images measured.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Mean of each channel. Bytes count as values from 0 to 1.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Standard deviation of each channel over all pixels.
    pub fn std(&self) -> Vec<f64> {
        let squares = self.squares.iter();
        squares.map(|sum| (sum / self.pixels).sqrt()).collect()
    }

    /// The smallest and the largest value of each channel.
    pub fn range(&self) -> &[[f64; 2]] {
        &self.range
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::MemoryDataset;

    #[test]
    fn images_of_unequal_means_are_joined_exactly() {
        // Two images of two pixels: channel 0 has 0, 255, 51, 51; channel 1 is 102 everywhere but once.
        let bytes = vec![0, 102, 0, 255, 102, 0, 51, 102, 0, 51, 0, 0];
        let images = MemoryDataset::new(bytes, (1, 2), 3).unwrap();
        let (moments, unreadable) = ChannelMoments::of(&images, &[0, 1], 3).unwrap();
        assert!(unreadable.is_empty());
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        near(moments.mean()[0], 0.35);
        near(moments.mean()[1], 0.3);
        // Squares of 0, 1, 0.2, 0.2 less the mean: 0.1225, 0.4225, 0.0225, 0.0225.
        near(moments.std()[0], (0.59f64 / 4.).sqrt());
        near(moments.std()[1], 0.03f64.sqrt());
        assert_eq!(moments.std()[2], 0.);
        assert_eq!(moments.range(), [[0., 1.], [0., 0.4], [0., 0.]]);
        assert_eq!(moments.images(), 2);
        assert!(ChannelMoments::of(&images, &[], 3).is_err());
        assert!(ChannelMoments::of(&images, &[0], 12).is_err());
        let grey = ChannelMoments::of(&images, &[1], 1).unwrap().0;
        assert_eq!(grey.mean().len(), 1);
    }
}
