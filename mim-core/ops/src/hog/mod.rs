//! Histograms of oriented gradients.

mod cpu;
mod gpu;
mod reference;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::cpu_slices::{floats, is_f32_on_cpu};
use super::gpu::is_supported;
use super::profile::{Pass, timer};
use crate::{Error, Result};

/// How the image gradient is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HogGradient {
    /// 3x3 Sobel filters; the image is reflected at its edges (MaskFeat, FastMIM). Angles are measured
    /// from the vertical gradient.
    #[default]
    Sobel,
    /// `x[i + 1] - x[i - 1]`, zero on the border (scikit-image, DMJD). Angles are measured from the
    /// horizontal gradient.
    Central,
}

/// Settings of [`hog`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HogFilter {
    /// How the image gradient is computed.
    pub gradient: HogGradient,
    /// Number of bins over half a turn.
    pub bins: usize,
    /// Side of a cell in pixels.
    pub cell: usize,
    /// Side in pixels of a Gaussian window that weighs the magnitudes, laid over the image tile by tile. Its sum
    /// is 1 and its deviation half its side, rounded down, but at least 1.
    pub window: Option<usize>,
}

/// Sums of gradient magnitudes by unsigned orientation: `[batch, channels, bins, rows, cols]`, one value per cell.
///
/// `images` is `[batch, channels, height, width]`; each channel has its own histograms. A pixel adds
/// its whole magnitude to bin `floor(angle / pi * bins)`, for its angle in `[0, pi)`. No gradient flows.
///
/// Dalal and Triggs (CVPR 2005) in the form of MaskFeat (Wei et al., CVPR 2022). Parity: a bin begins
/// where the first gradient component is exactly zero. So the Sobel taps are added one by one in
/// row-major order, as in the reference convolution; another order moves percents of the pixels. Angles
/// that f32 rounds to a quarter or half turn count as such, as in the reference's arctangent.
///
/// # Errors
///
/// [`Error::Shape`] if the images are narrower than two pixels or do not divide into cells and windows;
/// [`Error::InvalidArgument`] if there are no bins or a cell or window is empty.
pub fn hog(images: &Tensor, filter: HogFilter) -> Result<Tensor> {
    let _timer = timer("hog", Pass::Forward, images.dims(), 0.);
    check(images, filter)?;
    let images = images.detach();
    if is_supported(&[&images]) && filter.bins <= gpu::MOST_BINS {
        return Ok(gpu::hog(&images, filter)?);
    }
    if !is_f32_on_cpu(&[&images]) {
        return reference::hog(&images.to_dtype(DType::F32)?, filter);
    }
    let (batch, channels, height, width) = images.dims4()?;
    let images = images.contiguous()?;
    let histograms = cpu::hog(&floats(&images)?, (height, width), filter);
    let shape = (
        batch,
        channels,
        filter.bins,
        height / filter.cell,
        width / filter.cell,
    );
    Ok(Tensor::from_vec(histograms, shape, images.device())?)
}

fn check(images: &Tensor, filter: HogFilter) -> Result<()> {
    let HogFilter {
        bins, cell, window, ..
    } = filter;
    if bins == 0 || cell == 0 || window == Some(0) {
        return Err(Error::argument(
            "hog",
            "bins, cell, window",
            format!("{bins}, {cell}, {window:?}"),
            "each must be at least 1",
            "use 9 bins and cells of 8 pixels",
        ));
    }
    let fits = |side: usize| {
        side > 1
            && side.is_multiple_of(cell)
            && window.is_none_or(|window| side.is_multiple_of(window))
    };
    match *images.dims() {
        [_, _, height, width] if fits(height) && fits(width) => Ok(()),
        _ => Err(Error::shape(
            "hog images",
            match window {
                Some(window) => {
                    format!(
                        "[batch, channels, height, width], sides multiples of {cell} and {window}"
                    )
                }
                None => format!("[batch, channels, height, width], sides multiples of {cell}"),
            },
            images.dims(),
            "resize the images or choose another cell size",
        )),
    }
}

/// Weights of one tile of the window, in row-major order.
#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn gaussian(side: usize) -> Vec<f32> {
    let middle = (side as f64 - 1.) / 2.;
    let deviation = (side / 2).max(1) as f64;
    let line = (0..side).map(|i| (-0.5 * ((i as f64 - middle) / deviation).powi(2)).exp());
    let line: Vec<f64> = line.collect();
    let total: f64 = line.iter().sum::<f64>().powi(2);
    let weights = line
        .iter()
        .flat_map(|row| line.iter().map(move |col| (row * col / total) as f32));
    weights.collect()
}

/// Directions (a, -b) with `0 < a < HALF_TURN * b` have an angle that f32 rounds to pi.
const HALF_TURN: f32 = 3.18e-8;

/// The angle where a bin begins.
#[derive(Debug, Clone, Copy)]
struct Edge {
    /// Cosines: for directions with a non-negative first component, and for those turned because it was negative.
    cos: [f32; 2],
    sin: f32,
}

/// Cosines of the smallest angles that f32 rounds to a quarter turn, from above zero and from below.
///
/// At the upper and lower edge the image is reflected, so the vertical gradient is zero
/// except for rounding. An even number of bins has an edge at a quarter turn.
const QUARTER_TURN: [f32; 2] = [1.589_325_5e-8, 1.033_160_3e-7];

/// The angles where bins 1, 2, ... begin.
#[expect(clippy::cast_possible_truncation, reason = "directions are f32")]
fn edges(bins: usize) -> Vec<Edge> {
    let edge = |bin: usize| {
        let angle = std::f64::consts::PI * bin as f64 / bins as f64;
        let cos = match 2 * bin == bins {
            true => QUARTER_TURN,
            false => [angle.cos() as f32; 2],
        };
        let sin = angle.sin() as f32;
        Edge { cos, sin }
    };
    (1..bins).map(edge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use candle_core::{D, Device};

    const PLAIN: HogFilter = HogFilter {
        gradient: HogGradient::Sobel,
        bins: 9,
        cell: 8,
        window: None,
    };

    #[test]
    fn a_ramp_falls_into_one_bin() {
        // Brightness grows downwards by 1 per row: the vertical gradient is -8, the horizontal one 0.
        let rows: Vec<f32> = (0..16u8).flat_map(|row| [f32::from(row); 16]).collect();
        let image = Tensor::from_vec(rows, (1, 1, 16, 16), &Device::Cpu).unwrap();
        let made = hog(&image, PLAIN).unwrap();
        assert_eq!(made.dims(), [1, 1, 9, 2, 2]);
        let by_bin: Vec<f32> = made
            .sum((3, 4))
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        // The first and last rows have no slope, since the image is reflected there.
        assert_eq!(by_bin, [8. * 16. * 14., 0., 0., 0., 0., 0., 0., 0., 0.]);
        let central = HogFilter {
            gradient: HogGradient::Central,
            ..PLAIN
        };
        let by_bin = hog(&image, central).unwrap().sum((3, 4)).unwrap();
        let by_bin: Vec<f32> = by_bin.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(by_bin, [0., 0., 0., 0., 2. * 16. * 14., 0., 0., 0., 0.]);
    }

    #[test]
    fn histograms_sum_to_the_total_magnitude() {
        for gradient in [HogGradient::Sobel, HogGradient::Central] {
            let images = random(1, &[2, 3, 16, 32]);
            let filter = HogFilter { gradient, ..PLAIN };
            let one = HogFilter { bins: 1, ..filter };
            let sums = |filter| hog(&images, filter).unwrap().sum(2).unwrap();
            let difference = (sums(filter) - sums(one)).unwrap().abs().unwrap();
            assert!(
                difference
                    .flatten_all()
                    .unwrap()
                    .max(D::Minus1)
                    .unwrap()
                    .to_scalar::<f32>()
                    .unwrap()
                    < 1e-3
            );
        }
    }

    #[test]
    fn follows_the_reference() {
        for (gradient, window, bins, cell) in [
            (HogGradient::Sobel, None, 9, 8),
            (HogGradient::Sobel, Some(16), 9, 8),
            (HogGradient::Sobel, Some(8), 6, 4),
            (HogGradient::Central, None, 9, 8),
        ] {
            let filter = HogFilter {
                gradient,
                bins,
                cell,
                window,
            };
            let images = random(1, &[2, 3, 32, 48]);
            let difference =
                (hog(&images, filter).unwrap() - reference::hog(&images, filter).unwrap()).unwrap();
            let largest = difference
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap()
                .max(D::Minus1)
                .unwrap();
            assert!(largest.to_scalar::<f32>().unwrap() < 1e-4);
        }
    }

    #[test]
    fn directions_at_the_edges_of_half_a_turn() {
        let of = |a: f32, b: f32| {
            let (mut first, mut second) = ([a], [b]);
            cpu::bins_and_magnitudes(&edges(9), &mut first, &mut second);
            let tensor = |x: f32| Tensor::new(&[x], &Device::Cpu).unwrap();
            let plain = reference::bin(&tensor(a), &tensor(b), 9).unwrap();
            assert_eq!(plain.to_vec1::<f32>().unwrap(), second);
            second[0]
        };
        assert_eq!([of(0., 1.), of(0., -1.), of(0., 0.)], [0., 0., 0.]);
        assert_eq!([of(1e-7, 1.), of(1e-7, -1.), of(2e-8, -1.)], [0., 8., 0.]);
        assert_eq!([of(-1e-9, 1.), of(-1e-9, -1.), of(1., 0.)], [8., 0., 4.]);
    }

    #[test]
    fn directions_near_a_quarter_turn() {
        let of = |a: f32, b: f32| {
            let (mut first, mut second) = ([a], [b]);
            cpu::bins_and_magnitudes(&edges(6), &mut first, &mut second);
            let tensor = |x: f32| Tensor::new(&[x], &Device::Cpu).unwrap();
            let plain = reference::bin(&tensor(a), &tensor(b), 6).unwrap();
            assert_eq!(plain.to_vec1::<f32>().unwrap(), second);
            second[0]
        };
        assert_eq!([of(1., 0.), of(1., 1.5e-8), of(1., 1.7e-8)], [3., 3., 2.]);
        assert_eq!(
            [of(-1., 0.), of(-1., -1e-7), of(-1., -1.1e-7)],
            [3., 3., 2.]
        );
        assert_eq!([of(1., -1e-7), of(-1., 1e-7)], [3., 3.]);
    }

    #[test]
    fn windows_sum_to_one() {
        let window = gaussian(16);
        assert!((window.iter().sum::<f32>() - 1.).abs() < 1e-6);
        assert!(window[7 * 16 + 7] > window[0]);
        // Two and three pixels have the same deviation, 1.
        let (two, three) = (gaussian(2), gaussian(3));
        assert!((two[0] - 0.25).abs() < 1e-6);
        assert!((three[1] / three[4] - (-0.5f32).exp()).abs() < 1e-6);
    }

    #[test]
    fn refuses_partial_cells() {
        assert!(hog(&random(1, &[1, 3, 12, 16]), PLAIN).is_err());
        let wide = HogFilter {
            window: Some(16),
            ..PLAIN
        };
        assert!(hog(&random(1, &[1, 3, 24, 16]), wide).is_err());
        let none = HogFilter { bins: 0, ..PLAIN };
        assert!(hog(&random(1, &[1, 3, 16, 16]), none).is_err());
    }
}
