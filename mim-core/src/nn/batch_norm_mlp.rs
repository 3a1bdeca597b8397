//! An MLP with batch norms.

use candle_core::Tensor;

use super::{BatchNorm, Linear};
use crate::params::Params;
use crate::{Error, Result, StepContext, ops};

/// Epsilon of the norms: PyTorch's default.
const EPS: f64 = 1e-5;

/// Linear layers without bias, each followed by a batch norm, with GELU between them (NNCLR, Dwibedi et al., ICCV 2021;
/// as in MIM-Refiner).
#[derive(Debug, Clone)]
pub struct BatchNormMlp {
    layers: Vec<(Linear, BatchNorm)>,
}

impl BatchNormMlp {
    /// Maps rows of `widths[0]` values to rows of the last width. Parameters `N.0.weight`, `N.1.weight`, `N.1.bias`,
    /// buffers of the norms `N.1.*`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a width is 0.
    pub fn new(params: &Params, widths: &[usize]) -> Result<Self> {
        if widths.contains(&0) {
            let (why, fix) = ("a layer has at least one value", "use 256, for example");
            return Err(Error::config("batch-norm MLP", "width", 0, why, fix));
        }
        let layer = |(index, pair): (usize, &[usize])| {
            let params = params.pp(index);
            Ok((
                Linear::no_bias(&params.pp(0), pair[0], pair[1])?,
                BatchNorm::new(&params.pp(1), pair[1], EPS)?,
            ))
        };
        let layers = widths.windows(2).enumerate().map(layer);
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// Maps `[rows, inputs]` to `[rows, outputs]`; the batch statistics are over all rows.
    ///
    /// # Errors
    ///
    /// As [`BatchNorm::forward`].
    pub fn forward(&self, xs: &Tensor, step: &StepContext) -> Result<Tensor> {
        let mut xs = xs.clone();
        for (index, (linear, norm)) in self.layers.iter().enumerate() {
            if index > 0 {
                xs = ops::gelu(&xs)?;
            }
            xs = norm.forward(&linear.forward(&xs)?, step)?;
        }
        Ok(xs)
    }
}
