//! Operations on the levels of single channels, and sharpness, with the results of Pillow's `ImageOps` and
//! `ImageEnhance`.

use super::Sample;
use super::jitter::blend;

/// Replaces every byte of a channel by its entry in the channel's table.
fn look_up(mut sample: Sample, tables: &[[u8; 256]]) -> Sample {
    for pixel in sample.pixels.chunks_exact_mut(sample.channels) {
        for (value, table) in pixel.iter_mut().zip(tables) {
            *value = table[usize::from(*value)];
        }
    }
    sample
}

/// The table of `map` over all bytes.
fn table(map: impl Fn(usize) -> usize) -> [u8; 256] {
    std::array::from_fn(|value| u8::try_from(map(value)).unwrap_or(u8::MAX))
}

/// Counts of each byte in each channel.
fn histograms(sample: &Sample) -> Vec<[usize; 256]> {
    let mut counts = vec![[0; 256]; sample.channels];
    for pixel in sample.pixels.chunks_exact(sample.channels) {
        for (value, counts) in pixel.iter().zip(&mut counts) {
            counts[usize::from(*value)] += 1;
        }
    }
    counts
}

/// Stretches each channel so that its darkest value becomes 0 and its brightest 255.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped, and Pillow truncates"
)]
pub fn autocontrast(sample: Sample) -> Sample {
    let stretch = |counts: &[usize; 256]| {
        let low = counts.iter().position(|count| *count > 0).unwrap_or(0);
        let high = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        if high <= low {
            return table(|value| value);
        }
        let scale = 255. / (high - low) as f64;
        let offset = -(low as f64) * scale;
        table(|value| (value as f64 * scale + offset).clamp(0., 255.) as usize)
    };
    let tables: Vec<_> = histograms(&sample).iter().map(stretch).collect();
    look_up(sample, &tables)
}

/// Equalizes the histogram of each channel.
pub fn equalize(sample: Sample) -> Sample {
    let spread = |counts: &[usize; 256]| {
        let last = counts.iter().rfind(|count| **count > 0).unwrap_or(&0);
        let step = (counts.iter().sum::<usize>() - last) / 255;
        if step == 0 {
            return table(|value| value);
        }
        let mut sums = [step / 2; 256];
        for value in 1..256 {
            sums[value] = sums[value - 1] + counts[value - 1];
        }
        table(|value| sums[value] / step)
    };
    let tables: Vec<_> = histograms(&sample).iter().map(spread).collect();
    look_up(sample, &tables)
}

/// Inverts every value.
pub fn invert(mut sample: Sample) -> Sample {
    sample
        .pixels
        .iter_mut()
        .for_each(|value| *value = 255 - *value);
    sample
}

/// Keeps the highest `bits` of every value, 0 to 8.
pub fn posterize(mut sample: Sample, bits: u32) -> Sample {
    let kept = u8::MAX.checked_shl(8 - bits.min(8)).unwrap_or(0);
    sample.pixels.iter_mut().for_each(|value| *value &= kept);
    sample
}

/// Adds `amount` to values below 128.
pub fn solarize_add(mut sample: Sample, amount: u8) -> Sample {
    for value in sample.pixels.iter_mut().filter(|value| **value < 128) {
        *value = value.saturating_add(amount);
    }
    sample
}

/// Moves values away from a smoothed image by `factor`: 0 is smooth, 1 the image.
#[expect(clippy::cast_possible_truncation, reason = "Pillow blends in f32")]
pub fn adjust_sharpness(mut sample: Sample, factor: f64) -> Sample {
    let smooth = smoothed(&sample);
    for (value, smooth) in sample.pixels.iter_mut().zip(smooth) {
        *value = blend(smooth, *value, factor as f32);
    }
    sample
}

/// The mean of a pixel, with weight 5, and its eight neighbours; the outermost pixels stay as they are.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean of bytes"
)]
fn smoothed(sample: &Sample) -> Vec<u8> {
    let (height, width, channels) = (sample.height, sample.width, sample.channels);
    let stride = width * channels;
    let weight = |times: f32| times / 13.;
    let line = |middle: usize, own: f32| {
        let value = |at: usize| f32::from(sample.pixels[at]);
        let (left, right) = (value(middle - channels), value(middle + channels));
        left * weight(1.) + value(middle) * weight(own) + right * weight(1.)
    };
    let smooth = |(at, value): (usize, &u8)| {
        let (row, column) = (at / stride, at % stride / channels);
        if row == 0 || row + 1 == height || column == 0 || column + 1 == width {
            return *value;
        }
        (0.5 + line(at + stride, 1.) + line(at, 5.) + line(at - stride, 1.)) as u8
    };
    sample.pixels.iter().enumerate().map(smooth).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(pixels: &[u8]) -> Sample {
        Sample::new(pixels.to_vec(), (1, pixels.len()), 1).unwrap()
    }

    #[test]
    fn known_levels() {
        assert_eq!(autocontrast(grey(&[50, 100, 150])).pixels(), [0, 127, 255]);
        assert_eq!(autocontrast(grey(&[7, 7])).pixels(), [7, 7]);
        assert_eq!(equalize(grey(&[7, 9])).pixels(), [7, 9]);
        assert_eq!(invert(grey(&[0, 200])).pixels(), [255, 55]);
        assert_eq!(posterize(grey(&[255, 100]), 1).pixels(), [128, 0]);
        assert_eq!(posterize(grey(&[255, 100]), 0).pixels(), [0, 0]);
        assert_eq!(posterize(grey(&[255, 100]), 8).pixels(), [255, 100]);
        assert_eq!(solarize_add(grey(&[127, 128]), 200).pixels(), [255, 128]);
    }

    #[test]
    fn a_factor_of_one_keeps_the_image() {
        let image = Sample::new((0..48).collect(), (4, 4), 3).unwrap();
        assert_eq!(adjust_sharpness(image.clone(), 1.), image);
    }
}
