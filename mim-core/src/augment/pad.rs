//! Borders around images.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{ImageOp, Sample};
use crate::{Error, Result};

/// A border of one colour on every side.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pad {
    /// Width of the border in pixels.
    pub pixels: usize,
    /// Value of every channel as a byte. 0 (black) by default; 255 stands for 1 in deep images.
    pub fill: u8,
}

impl ImageOp for Pad {
    fn check(&self) -> Result<()> {
        if self.pixels <= 65_535 {
            return Ok(());
        }
        Err(Error::config(
            "pad",
            "pixels",
            self.pixels,
            "no image is wider than 65535 pixels",
            "choose a narrower border",
        ))
    }

    fn apply(&self, sample: Sample, _rng: &mut dyn Rng) -> Result<Sample> {
        let border = [self.pixels; 2];
        Ok(padded(sample, border, border, self.fill))
    }
}

/// Adds `before` = [rows, columns] at the top and left of the image, and `after` at the bottom and right.
pub(super) fn padded(
    mut sample: Sample,
    before: [usize; 2],
    after: [usize; 2],
    fill: u8,
) -> Sample {
    if before == [0; 2] && after == [0; 2] {
        return sample;
    }
    let height = before[0] + sample.height + after[0];
    let width = before[1] + sample.width + after[1];
    let [top, left] = before.map(|side| -(side as f32));
    let (size, corners) = ((height, width), [top, left, height as f32, width as f32]);
    let channels = sample.channels;
    let strides = (sample.width * channels, width * channels);
    let place = before[0] * strides.1 + before[1] * channels;
    if sample.is_deep() {
        let mut values = vec![f32::from(fill) / 255.; height * strides.1];
        lay(&sample.values, &mut values[place..], strides);
        sample.replace_values(values, size, corners);
    } else {
        let mut pixels = vec![fill; height * strides.1];
        lay(&sample.pixels, &mut pixels[place..], strides);
        sample.replace(pixels, size, corners);
    }
    sample
}

/// Copies the rows of a smaller image into a larger one, from `target` on.
fn lay<T: Copy>(source: &[T], target: &mut [T], (stride, wider): (usize, usize)) {
    let rows = target.chunks_mut(wider);
    for (row, source) in rows.zip(source.chunks_exact(stride)) {
        row[..stride].copy_from_slice(source);
    }
}
