//! Affine maps.

use candle_core::Tensor;

use crate::params::Params;
use crate::{Result, ops};

/// `y = x W^T + b`, `W` `[outputs, inputs]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A map with bias; parameters `weight`, `bias`.
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn new(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = Some(params.weight(&[outputs], "bias")?);
        Ok(Self {
            weight: params.weight(&[outputs, inputs], "weight")?,
            bias,
        })
    }

    /// A map without bias; parameter `weight`.
    ///
    /// # Errors
    ///
    /// If the name is taken by another shape.
    pub fn no_bias(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            weight: params.weight(&[outputs, inputs], "weight")?,
            bias: None,
        })
    }

    /// The map and a GELU behind it, `[..., inputs]` to `[..., outputs]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `inputs` wide.
    pub fn forward_gelu(&self, xs: &Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => Ok(ops::linear_gelu(xs, &self.weight, bias)?),
            None => Ok(ops::gelu(&self.forward(xs)?)?),
        }
    }

    /// Maps `[..., inputs]` to `[..., outputs]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `inputs` wide.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(xs, &self.weight, self.bias.as_ref())?)
    }

    /// Weight and bias, if it has one.
    pub(super) fn affine(&self) -> Option<ops::Affine<'_>> {
        let (weight, bias) = (&self.weight, self.bias.as_ref()?);
        Some(ops::Affine { weight, bias })
    }
}
