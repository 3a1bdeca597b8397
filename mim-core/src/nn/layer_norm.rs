//! Layer normalisation that trains.

use candle_core::Tensor;

use crate::params::Params;
use crate::{Result, ops};

/// `(x - mean) / sqrt(var + eps) * weight + bias` over the last axis, biased variance (Ba et al., 2016).
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Parameters `weight`, `bias`, `[dim]`.
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn new(params: &Params, dim: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: params.weight(&[dim], "weight")?,
            bias: params.weight(&[dim], "bias")?,
            eps,
        })
    }

    /// Normalises `[..., dim]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `dim` wide.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        ops::layer_norm(xs, &self.weight, &self.bias, self.eps)
    }
}
