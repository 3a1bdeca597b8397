//! Gaussian blur of whole images.

use candle_core::Tensor;
use mim_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// A Gaussian filter with zero padding, which darkens the border.
///
/// SAIM (Qi et al., AAAI 2023): `kernel_size` 9, `sigma` 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blur {
    /// Side of the kernel in pixels, odd.
    pub kernel_size: usize,
    /// Standard deviation in pixels.
    pub sigma: f64,
}

impl Blur {
    pub(crate) fn validate(self) -> Result<()> {
        if self.kernel_size % 2 == 1 && self.sigma > 0. && self.sigma.is_finite() {
            return Ok(());
        }
        Err(Error::config(
            "pixel target",
            "blur",
            format!("{self:?}"),
            "the kernel must have an odd side and a positive deviation",
            "use for example kernel_size = 9, sigma = 1.0",
        ))
    }

    /// Filters each channel of `[batch, channels, height, width]`.
    pub(crate) fn apply(self, images: &Tensor) -> Result<Tensor> {
        let (side, centre) = (self.kernel_size, (self.kernel_size / 2) as f64);
        let line: Vec<f64> = (0..side)
            .map(|x| (-(x as f64 - centre).powi(2) / (2. * self.sigma.powi(2))).exp())
            .collect();
        let total: f64 = line.iter().sum();
        let line: Vec<f64> = line.iter().map(|weight| weight / total).collect();
        // The two-dimensional kernel is the outer product of two one-dimensional ones.
        let line = Tensor::new(line, images.device())?.to_dtype(images.dtype())?;
        let planes = images.flatten_to(1)?.unsqueeze(1)?;
        let pad = side / 2;
        let rows = planes.pad_with_zeros(3, pad, pad)?.conv2d(
            &line.reshape((1, 1, 1, side))?,
            0,
            1,
            1,
            1,
        )?;
        let both = rows.pad_with_zeros(2, pad, pad)?.conv2d(
            &line.reshape((1, 1, side, 1))?,
            0,
            1,
            1,
            1,
        )?;
        Ok(both.reshape(images.shape())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn blurs_a_point_to_the_product_of_two_gaussians() {
        let mut pixels = vec![0f32; 9];
        pixels[4] = 1.;
        let image = Tensor::from_vec(pixels, (1, 1, 3, 3), &Device::Cpu).unwrap();
        let blur = Blur {
            kernel_size: 3,
            sigma: 1.,
        };
        let ys = blur.apply(&image).unwrap().flatten_all().unwrap();
        let edge = (-0.5f32).exp();
        let total = 1. + 2. * edge;
        let (middle, edge) = (1. / total, edge / total);
        let want = [
            edge * edge,
            edge * middle,
            edge * edge,
            edge * middle,
            middle * middle,
        ];
        for (got, want) in ys.to_vec1::<f32>().unwrap().iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} against {want}");
        }
        let even = Blur {
            kernel_size: 4,
            sigma: 1.,
        };
        assert!(even.validate().is_err());
    }
}
