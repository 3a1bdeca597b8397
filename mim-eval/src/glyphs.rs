//! Draws histograms of oriented gradients: one line per orientation in each cell.

use std::f64::consts::PI;

use candle_core::{DType, Device, Tensor};
use mim_core::Result;
use mim_core::ops::HogGradient;

/// Draws histograms `[batch, channels, bins, rows, cols]` of cells: `[batch, 1, rows * side, cols * side]` in `[0, 1]`.
///
/// A cell has one line through its centre per bin, along the edge of such gradients. Its brightness is the bin,
/// summed over channels, relative to the maximum of the image. Negative values (of whitened histograms)
/// are not drawn. Dalal and Triggs (CVPR 2005), figure 6.
///
/// # Errors
///
/// [`mim_core::Error::Tensor`] if `histograms` has another rank.
pub fn hog_glyphs(histograms: &Tensor, gradient: HogGradient, side: usize) -> Result<Tensor> {
    let (batch, _, bins, rows, cols) = histograms.dims5()?;
    let sums = histograms.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let sums = sums.relu()?.sum(1)?;
    let lines: Vec<Vec<f32>> = (0..bins)
        .map(|bin| line(bin, bins, gradient, side))
        .collect();
    let (height, width) = (rows * side, cols * side);
    let mut drawn = vec![0f32; batch * height * width];
    for (image, picture) in drawn.chunks_exact_mut(height * width).enumerate() {
        let values: Vec<f32> = sums.get(image)?.flatten_all()?.to_vec1()?;
        let most = values
            .iter()
            .copied()
            .fold(0f32, f32::max)
            .max(f32::MIN_POSITIVE);
        for (place, value) in values.iter().enumerate() {
            let (bin, row, col) = (place / (rows * cols), place / cols % rows, place % cols);
            for (at, line) in lines[bin].iter().enumerate() {
                let (y, x) = (row * side + at / side, col * side + at % side);
                let pixel = &mut picture[y * width + x];
                *pixel = pixel.max(line * value / most);
            }
        }
    }
    Ok(Tensor::from_vec(
        drawn,
        (batch, 1, height, width),
        &Device::Cpu,
    )?)
}

/// Coverage of each of `side` x `side` pixels by the line of a bin, from 0 to 1, in row-major order.
#[expect(clippy::cast_possible_truncation, reason = "brightness is f32")]
fn line(bin: usize, bins: usize, gradient: HogGradient, side: usize) -> Vec<f32> {
    let (sin, cos) = ((bin as f64 + 0.5) / bins as f64 * PI).sin_cos();
    // The gradient to the right and down; the edge is perpendicular to it.
    let (right, down) = match gradient {
        HogGradient::Sobel => (sin, cos),
        HogGradient::Central => (cos, sin),
    };
    let (middle, reach) = ((side as f64 - 1.) / 2., side as f64 / 2. - 0.5);
    let pixel = |at: usize| {
        let (y, x) = ((at / side) as f64 - middle, (at % side) as f64 - middle);
        let (off, along) = ((x * right + y * down).abs(), (y * right - x * down).abs());
        match along <= reach {
            true => (1.3 - off).clamp(0., 1.) as f32,
            false => 0.,
        }
    };
    (0..side * side).map(pixel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::ops::{HogFilter, hog};

    /// The glyph of an image that is dark on one side of a line through its centre and bright on the other.
    fn glyph(gradient: HogGradient, bright: impl Fn(usize, usize) -> bool) -> Vec<Vec<f32>> {
        let pixels = (0..256).map(|at| f32::from(u8::from(bright(at / 16, at % 16))));
        let image = Tensor::from_vec(pixels.collect(), (1, 1, 16, 16), &Device::Cpu).unwrap();
        let filter = HogFilter {
            gradient,
            bins: 9,
            cell: 16,
            window: None,
        };
        let drawn = hog_glyphs(&hog(&image, filter).unwrap(), gradient, 15).unwrap();
        drawn
            .squeeze(0)
            .unwrap()
            .squeeze(0)
            .unwrap()
            .to_vec2()
            .unwrap()
    }

    #[test]
    fn lines_lie_along_the_edge() {
        for gradient in [HogGradient::Sobel, HogGradient::Central] {
            // The line of a bin covers angles up to 10 degrees off.
            let upright = glyph(gradient, |_, x| x >= 8);
            assert!(upright[5][7] > 0.9 && upright[9][7] > 0.9, "{gradient:?}");
            assert!(upright[7][2] < 0.1, "{gradient:?}");
            let level = glyph(gradient, |y, _| y >= 8);
            assert!(level[7][5] > 0.9 && level[2][7] < 0.1, "{gradient:?}");
            // From bottom left to top right.
            let slope = glyph(gradient, |y, x| y + x >= 16);
            assert!(slope[4][10] > 0.5 && slope[10][4] > 0.5, "{gradient:?}");
            assert!(slope[4][4] < 0.1 && slope[10][10] < 0.1, "{gradient:?}");
        }
    }

    #[test]
    fn flat_images_are_black() {
        let none = Tensor::zeros((2, 3, 9, 2, 1), DType::F32, &Device::Cpu).unwrap();
        let drawn = hog_glyphs(&none, HogGradient::Sobel, 8).unwrap();
        assert_eq!(drawn.dims(), [2, 1, 16, 8]);
        assert_eq!(drawn.sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.);
    }
}
