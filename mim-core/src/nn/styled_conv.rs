//! Style-modulated convolutions.

use candle_core::Tensor;

use super::group_norm::standardized;
use super::{Conv, Linear};
use crate::Result;
use crate::ops::Window;
use crate::params::Params;

/// Slope of the leaky ReLU below zero.
const SLOPE: f64 = 0.2;
const EPS: f64 = 1e-5;

/// A 3x3 convolution, leaky ReLU, and adaptive instance normalisation (Huang and Belongie, ICCV 2017): the style sets
/// deviation and mean of each channel of an image. A layer of StyleGAN (Karras et al., CVPR 2019, section 2)
/// without noise.
#[derive(Debug, Clone)]
pub struct StyledConv {
    conv: Conv,
    style: Linear,
}

impl StyledConv {
    /// Parameters `conv.weight` `[outputs, inputs, 3, 3]`, `conv.bias`, `style.weight` `[2 * outputs, style]`,
    /// `style.bias`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, inputs: usize, outputs: usize, style: usize) -> Result<Self> {
        let window = Window {
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        Ok(Self {
            conv: Conv::new(&params.pp("conv"), inputs, outputs, window)?,
            style: Linear::new(&params.pp("style"), style, 2 * outputs)?,
        })
    }

    /// Maps `[batch, height, width, inputs]` to `[batch, height, width, outputs]` with styles `[batch, style]`.
    ///
    /// # Errors
    ///
    /// If the shape of map or style does not match.
    pub fn forward(&self, xs: &Tensor, style: &Tensor) -> Result<Tensor> {
        let xs = self.conv.forward(xs)?;
        let xs = ((xs.relu()? * (1. - SLOPE))? + (xs * SLOPE)?)?;
        let channels = xs.dim(3)?;
        let normed = standardized(&xs, channels, EPS)?;
        let style = self.style.forward(style)?.unsqueeze(1)?.unsqueeze(1)?;
        // A zero style changes nothing.
        let scale = (style.narrow(3, 0, channels)? + 1.)?;
        let shift = style.narrow(3, channels, channels)?;
        Ok(normed.broadcast_mul(&scale)?.broadcast_add(&shift)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    #[test]
    fn channels_have_mean_and_deviation_of_the_style() {
        let store = ParamStore::cpu(2);
        let layer = StyledConv::new(&store.root(), 3, 2, 4).unwrap();
        let style = noise(&[2, 4], 1);
        let ys = layer.forward(&noise(&[2, 5, 6, 3], 2), &style).unwrap();
        assert_eq!(ys.dims(), [2, 5, 6, 2]);
        let wanted: Vec<Vec<f32>> = layer.style.forward(&style).unwrap().to_vec2().unwrap();
        for (image, wanted) in wanted.iter().enumerate() {
            for channel in 0..2 {
                let part = ys.get(image).unwrap().narrow(2, channel, 1).unwrap();
                let values: Vec<f32> = part.flatten_all().unwrap().to_vec1().unwrap();
                let mean = values.iter().sum::<f32>() / 30.;
                let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 30.;
                let scale = (1. + wanted[channel]).abs();
                assert!((mean - wanted[2 + channel]).abs() < 1e-5);
                assert!((square.sqrt() - scale).abs() < 1e-3, "{square} {scale}");
            }
        }
    }
}
