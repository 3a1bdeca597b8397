//! Dropout of channels.

use rand::seq::index;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::{ImageOp, Sample, check_probability, happens};
use crate::{Error, Result};

/// Replaces all values of some random channels by one value, so that a network does not rely on single bands.
///
/// Follows the conventions of Albumentations' operation of the same name. At least one channel is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelDropout {
    /// Probability, 0.5 by default.
    pub p: f64,
    /// Smallest and largest number of channels to drop. Default `[1, 1]`.
    pub count: [usize; 2],
    /// The value of a dropped channel, where images are from 0 to 1. Default 0.
    pub fill: f32,
}

impl Default for ChannelDropout {
    fn default() -> Self {
        Self {
            p: 0.5,
            count: [1, 1],
            fill: 0.,
        }
    }
}

const NAME: &str = "channel_dropout";

impl ChannelDropout {
    fn bad_count(&self, why: String, fix: &'static str) -> Error {
        Error::config(NAME, "count", format!("{:?}", self.count), why, fix)
    }
}

impl ImageOp for ChannelDropout {
    fn check(&self) -> Result<()> {
        check_probability(NAME, self.p)?;
        let ([least, most], fill) = (self.count, self.fill);
        if !(1..=most).contains(&least) {
            let why = "it is a range [least, greatest] from 1 on";
            return Err(self.bad_count(why.to_owned(), "use for instance [1, 2]"));
        }
        if !fill.is_finite() {
            let fix = "use 0, or a mean of the data";
            return Err(Error::config(
                NAME,
                "fill",
                fill,
                "it must be a number",
                fix,
            ));
        }
        Ok(())
    }

    fn apply(&self, mut sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        let (channels, [least, most]) = (sample.channels, self.count);
        if most >= channels {
            let why = format!("the images have {channels} channels, one of which must be kept");
            return Err(self.bad_count(why, "drop fewer, or leave it out of the views"));
        }
        if !happens(rng, self.p) {
            return Ok(sample);
        }
        let count = rng.random_range(least..=most);
        for channel in index::sample(rng, channels, count) {
            let values = sample.values.iter_mut().skip(channel).step_by(channels);
            values.for_each(|value| *value = self.fill);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "as a byte, cut to its range"
            )]
            let byte = (self.fill * 255.).round() as u8;
            let pixels = sample.pixels.iter_mut().skip(channel).step_by(channels);
            pixels.for_each(|pixel| *pixel = byte);
        }
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    #[test]
    fn whole_channels_are_dropped_in_values_and_bytes() {
        let drop = ChannelDropout {
            p: 1.,
            count: [2, 3],
            fill: 0.2,
        };
        let mut rng = stream(3, Purpose::Augment, [0, 0]);
        let mut counts = [0; 13];
        for _ in 0..100 {
            let image = Sample::of_values(vec![0.5; 24], (1, 2), 12).unwrap();
            let image = drop.apply(image, &mut rng).unwrap();
            let (first, second) = image.values().split_at(12);
            assert_eq!(first, second);
            assert!(first.iter().all(|value| [0.2, 0.5].contains(value)));
            counts[first.iter().filter(|value| **value == 0.2).count()] += 1;
        }
        assert_eq!(counts[2] + counts[3], 100);
        assert!(counts[2] > 20 && counts[3] > 20, "{counts:?}");
        let one = ChannelDropout {
            count: [1, 2],
            ..drop.clone()
        };
        let rgb = Sample::new(vec![9; 6], (1, 2), 3).unwrap();
        let rgb = one.apply(rgb, &mut rng).unwrap();
        let (first, second) = rgb.pixels().split_at(3);
        assert!(first == second && first.contains(&51) && first.contains(&9));
    }

    #[test]
    fn one_channel_is_always_kept() {
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        let drop = ChannelDropout::default();
        let grey = Sample::new(vec![1], (1, 1), 1).unwrap();
        let error = drop.apply(grey, &mut rng).unwrap_err().to_string();
        assert!(error.contains("one of which must be kept"), "{error}");
        for count in [[0, 1], [2, 1]] {
            let bad = ChannelDropout {
                count,
                ..ChannelDropout::default()
            };
            assert!(bad.check().is_err());
        }
    }
}
