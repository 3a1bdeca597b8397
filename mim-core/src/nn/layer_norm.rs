//! Layer normalisation with trained parameters.

use candle_core::{DType, Tensor};

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
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, dim: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: params.weight(&[dim], "weight")?,
            bias: params.weight(&[dim], "bias")?,
            eps,
        })
    }

    /// As [`LayerNorm::new`], with `weight` one and `bias` zero, saved but never trained.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn frozen(params: &Params, dim: usize, eps: f64) -> Result<Self> {
        let device = params.device();
        Ok(Self {
            weight: params.constant("weight", Tensor::ones(dim, DType::F32, device)?)?,
            bias: params.constant("bias", Tensor::zeros(dim, DType::F32, device)?)?,
            eps,
        })
    }

    /// Normalises `[..., dim]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `dim` wide.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(ops::layer_norm(xs, &self.weight, &self.bias, self.eps)?)
    }

    pub(super) fn affine(&self) -> ops::Affine<'_> {
        ops::Affine {
            weight: &self.weight,
            bias: &self.bias,
        }
    }

    pub(super) fn eps(&self) -> f64 {
        self.eps
    }
}
