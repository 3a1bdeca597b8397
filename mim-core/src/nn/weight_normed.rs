//! Weight normalisation.

use candle_core::Tensor;

use super::of_length_one;
use crate::params::Params;
use crate::{Result, ops};

/// A matrix whose rows are `g v / |v|` (Salimans and Kingma, NeurIPS 2016).
#[derive(Debug, Clone)]
pub struct WeightNormed {
    g: Tensor,
    v: Tensor,
}

impl WeightNormed {
    /// Parameters `weight_g` `[outputs, 1]`, initialised to one, and `weight_v` `[outputs, inputs]`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            g: params.filled(&[outputs, 1], "weight_g", 1.)?,
            v: params.weight(&[outputs, inputs], "weight_v")?,
        })
    }

    /// The matrix `[outputs, inputs]`.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn weight(&self) -> Result<Tensor> {
        let length = self.v.sqr()?.sum_keepdim(1)?.sqrt()?;
        Ok(self.v.broadcast_mul(&(&self.g / length)?)?)
    }

    /// Normalises rows `[.., inputs]` to length one and multiplies them by the matrix: `[.., outputs]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `inputs` wide.
    pub fn of_unit_rows(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(&of_length_one(xs)?, &self.weight()?, None)?)
    }
}
