//! Transposed convolutions that double a feature map.

use candle_core::Tensor;

use crate::params::Params;
use crate::{Result, ops};

/// Side of the kernel.
const KERNEL: usize = 4;

/// A transposed convolution over `[batch, height, width, channels]` with a 4x4 kernel, stride 2 and padding 1, which
/// doubles height and width. Its parameters have the shapes of PyTorch's `ConvTranspose2d`.
#[derive(Debug, Clone)]
pub struct ConvTranspose {
    weight: Tensor,
    bias: Tensor,
}

impl ConvTranspose {
    /// Parameters `weight` `[inputs, outputs, 4, 4]`, `bias` `[outputs]`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn doubling(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            weight: params.weight(&[inputs, outputs, KERNEL, KERNEL], "weight")?,
            bias: params.weight(&[outputs], "bias")?,
        })
    }

    /// Maps `[batch, height, width, inputs]` to `[batch, 2 * height, 2 * width, outputs]`.
    ///
    /// # Errors
    ///
    /// If the number of channels differs.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, height, width, _) = xs.dims4()?;
        let outputs = self.bias.dim(0)?;
        // The contribution of each pixel to the 4x4 pixels around it, ordered (row, column, channel).
        let weight = self.weight.permute((2, 3, 1, 0))?.flatten_to(2)?;
        let parts = ops::linear(xs, &weight, None)?;
        // Row 2 y + 2 a + b of the result, padded by one row at each end, gets row (a, b) of pixel y; likewise for
        // columns.
        let shape = [batch, height, width, 2, 2, 2, 2 * outputs];
        let parts = parts.reshape(&shape[..])?;
        let mut sum: Option<Tensor> = None;
        for (row, col) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let part = parts.narrow(3, row, 1)?.narrow(5, col, 1)?;
            let part = part.squeeze(5)?.squeeze(3)?.permute((0, 1, 3, 2, 4))?;
            // [batch, height, b, width, (b, channel)]
            let part = part.pad_with_zeros(1, row, 1 - row)?;
            let part = part.pad_with_zeros(3, col, 1 - col)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        let Some(sum) = sum else {
            return Ok(xs.clone());
        };
        let whole = sum.reshape((batch, 2 * height + 2, 2 * width + 2, outputs))?;
        let inner = whole.narrow(1, 1, 2 * height)?.narrow(2, 1, 2 * width)?;
        Ok(inner.broadcast_add(&self.bias)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;
    use candle_core::{D, Var};

    /// candle's own operation, channels first.
    fn reference(layer: &ConvTranspose, xs: &Tensor) -> Tensor {
        let xs = xs.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let ys = xs.conv_transpose2d(&layer.weight, 1, 0, 2, 1).unwrap();
        let ys = ys.permute((0, 2, 3, 1)).unwrap();
        ys.broadcast_add(&layer.bias).unwrap()
    }

    fn largest(xs: &Tensor) -> f32 {
        let xs = xs.abs().unwrap().flatten_all().unwrap();
        xs.max(D::Minus1).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn agrees_with_candles_and_its_gradient_is_the_adjoint() {
        let store = ParamStore::cpu(3);
        let layer = ConvTranspose::doubling(&store.root(), 3, 5).unwrap();
        let xs = Var::from_tensor(&noise(&[2, 4, 3, 3], 1)).unwrap();
        let ys = layer.forward(xs.as_tensor()).unwrap();
        assert_eq!(ys.dims(), [2, 8, 6, 5]);
        assert!(largest(&(&ys - reference(&layer, xs.as_tensor())).unwrap()) < 1e-5);
        // Linear maps satisfy <y, f(x)> = <f*(y), x>; checked for input and weights.
        let other = noise(&[2, 8, 6, 5], 2);
        let product = (&ys * &other).unwrap().sum_all().unwrap();
        let grads = product.backward().unwrap();
        let dot = |var: &Tensor| {
            let grad = grads.get(var).unwrap();
            let product = (grad * var).unwrap().sum_all().unwrap();
            product.to_scalar::<f32>().unwrap()
        };
        let bias = dot(&layer.bias);
        let whole: f32 = product.to_scalar().unwrap();
        for linear in [xs.as_tensor(), &layer.weight] {
            assert!((dot(linear) + bias - whole).abs() < 1e-3 * whole.abs().max(1.));
        }
    }
}
