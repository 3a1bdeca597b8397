//! The feed-forward half of a block.

use candle_core::Tensor;

use super::block::Branch;
use super::{Activation, LayerNorm, Linear};
use crate::params::Params;
use crate::{Result, ops};

/// `fc2(gelu(fc1(x)))`, exact GELU unless asked for another one.
#[derive(Debug, Clone)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Mlp {
    /// Parameters `fc1`, `fc2`.
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn new(params: &Params, dim: usize, hidden: usize) -> Result<Self> {
        let fc1 = Linear::new(&params.pp("fc1"), dim, hidden)?;
        Ok(Self {
            fc1,
            fc2: Linear::new(&params.pp("fc2"), hidden, dim)?,
            activation: Activation::Gelu,
        })
    }

    /// The same without biases.
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn no_bias(params: &Params, dim: usize, hidden: usize) -> Result<Self> {
        let fc1 = Linear::no_bias(&params.pp("fc1"), dim, hidden)?;
        Ok(Self {
            fc1,
            fc2: Linear::no_bias(&params.pp("fc2"), hidden, dim)?,
            activation: Activation::Gelu,
        })
    }

    /// Width of the hidden layer of `ratio` times `dim`, rounded down.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a layer's width"
    )]
    pub(crate) fn hidden(dim: usize, ratio: f64) -> usize {
        (dim as f64 * ratio) as usize
    }

    /// The same with another activation.
    #[must_use]
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// Maps `[..., dim]` to `[..., dim]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `dim` wide.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let hidden = match self.activation {
            Activation::Gelu => self.fc1.forward_gelu(xs)?,
            other => other.forward(&self.fc1.forward(xs)?)?,
        };
        self.fc2.forward(&hidden)
    }

    /// `xs` and the branch `forward(norm(xs))` as one operation, where there is one: with GELU, and if both
    /// linear layers have biases.
    ///
    /// # Errors
    ///
    /// As [`Mlp::forward`].
    pub(super) fn residual(
        &self,
        xs: &Tensor,
        norm: &LayerNorm,
        branch: &Branch<'_>,
    ) -> Result<Option<Tensor>> {
        match (self.activation, self.fc1.affine(), self.fc2.affine()) {
            (Activation::Gelu, Some(fc1), Some(fc2)) => {
                Ok(Some(ops::residual_mlp(xs, &branch.half(norm, [fc1, fc2]))?))
            }
            _ => Ok(None),
        }
    }
}
