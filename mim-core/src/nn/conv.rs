//! Convolutions of channels-last feature maps.

use candle_core::Tensor;

use crate::Result;
use crate::ops::{self, Window};
use crate::params::Params;

/// A convolution over `[batch, height, width, channels]`; its parameters have the shapes of PyTorch's `Conv2d`.
#[derive(Debug, Clone)]
pub struct Conv {
    weight: Tensor,
    bias: Tensor,
    window: Window,
}

impl Conv {
    /// Parameters `weight` `[outputs, inputs, kernel, kernel]`, `bias` `[outputs]`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, inputs: usize, outputs: usize, window: Window) -> Result<Self> {
        let side = window.kernel;
        Ok(Self {
            weight: params.weight(&[outputs, inputs, side, side], "weight")?,
            bias: params.weight(&[outputs], "bias")?,
            window,
        })
    }

    /// A convolution with kernel and stride `side`, which cuts a map into patches.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn patches(params: &Params, inputs: usize, outputs: usize, side: usize) -> Result<Self> {
        let window = Window {
            kernel: side,
            stride: side,
            padding: 0,
        };
        Self::new(params, inputs, outputs, window)
    }

    /// Maps `[batch, height, width, inputs]` to `[batch, rows, cols, outputs]`.
    ///
    /// # Errors
    ///
    /// If the shape of the map does not match.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.apply(&self.windows(xs)?)
    }

    /// The windows of a map, `[batch, rows, cols, values]`, for [`Conv::apply`].
    ///
    /// # Errors
    ///
    /// If the shape of the map does not match.
    pub fn windows(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(ops::unfold(xs, self.window)?)
    }

    /// Applies the kernel to some windows, `[..., values]` to `[..., outputs]`.
    ///
    /// # Errors
    ///
    /// If they are not windows of this convolution.
    pub fn apply(&self, windows: &Tensor) -> Result<Tensor> {
        // Window values are channels-last.
        let weight = self.weight.permute((0, 2, 3, 1))?.flatten_from(1)?;
        Ok(ops::linear(windows, &weight, Some(&self.bias))?)
    }
}

/// Doubles `[batch, height, width, channels]`: each pixel becomes 2x2 equal pixels.
///
/// # Errors
///
/// If `xs` does not have four axes.
pub fn doubled(xs: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = xs.dims4()?;
    let shape = (batch, height, 2, width, 2, channels);
    let xs = xs.reshape((batch, height, 1, width, 1, channels))?;
    Ok(xs
        .broadcast_as(shape)?
        .reshape((batch, 2 * height, 2 * width, channels))?)
}

/// A depth-wise convolution over `[batch, height, width, channels]`: one kernel per channel.
#[derive(Debug, Clone)]
pub struct DepthwiseConv {
    weight: Tensor,
    bias: Tensor,
}

impl DepthwiseConv {
    /// Parameters `weight` `[channels, 1, kernel, kernel]`, `bias` `[channels]`; `kernel` is odd.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, channels: usize, kernel: usize) -> Result<Self> {
        Ok(Self {
            weight: params.weight(&[channels, 1, kernel, kernel], "weight")?,
            bias: params.weight(&[channels], "bias")?,
        })
    }

    /// Maps `[batch, height, width, channels]` to the same shape.
    ///
    /// # Errors
    ///
    /// If the number of channels differs.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(ops::depthwise_conv(xs, &self.weight, &self.bias)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use candle_core::{D, Device};

    #[test]
    fn pixels_are_doubled() {
        let xs = Tensor::new(&[[[[1f32], [2.]]]], &Device::Cpu).unwrap();
        let doubled = doubled(&xs).unwrap().flatten_all().unwrap();
        let flat: Vec<f32> = doubled.to_vec1().unwrap();
        assert_eq!(flat, [1., 1., 2., 2., 1., 1., 2., 2.]);
    }

    #[test]
    fn agrees_with_candles_convolution() {
        let store = ParamStore::cpu(3);
        let window = Window {
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        let conv = Conv::new(&store.root().pp("conv"), 4, 5, window).unwrap();
        let xs = Tensor::arange(0f32, 2. * 4. * 7. * 6., &Device::Cpu).unwrap();
        let xs = xs.reshape((2, 4, 7, 6)).unwrap().sin().unwrap();
        let own = conv.forward(&xs.permute((0, 2, 3, 1)).unwrap()).unwrap();
        let theirs = xs.conv2d(&conv.weight, 1, 2, 1, 1).unwrap();
        let theirs = theirs.permute((0, 2, 3, 1)).unwrap();
        let difference = (own - theirs.broadcast_add(&conv.bias).unwrap()).unwrap();
        let largest = difference.abs().unwrap().flatten_all().unwrap();
        assert!(largest.max(D::Minus1).unwrap().to_scalar::<f32>().unwrap() < 1e-5);
    }
}
