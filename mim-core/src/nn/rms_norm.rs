//! RMS normalisation.

use candle_core::{D, Tensor};

use crate::Result;
use crate::params::Params;

/// `x / sqrt(mean(x^2) + eps)` over the last axis, times an optional weight (Zhang and Sennrich, NeurIPS 2019).
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Option<Tensor>,
    eps: f64,
}

impl RmsNorm {
    /// Parameter `weight` `[dim]`.
    ///
    /// # Errors
    ///
    /// If a parameter with this name has another shape.
    pub fn new(params: &Params, dim: usize, eps: f64) -> Result<Self> {
        let weight = Some(params.weight(&[dim], "weight")?);
        Ok(Self { weight, eps })
    }

    /// As [`RmsNorm::new`], without a weight.
    pub fn plain(eps: f64) -> Self {
        Self { weight: None, eps }
    }

    /// Normalises `[..., dim]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `dim` wide.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let squares = xs.sqr()?.mean_keepdim(D::Minus1)?;
        let ys = xs.broadcast_div(&(squares + self.eps)?.sqrt()?)?;
        match &self.weight {
            Some(weight) => Ok(ys.broadcast_mul(weight)?),
            None => Ok(ys),
        }
    }
}
