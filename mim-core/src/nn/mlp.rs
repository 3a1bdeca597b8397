//! The feed-forward half of a block.

use candle_core::Tensor;

use super::block::Branch;
use super::{Activation, LayerNorm, Linear};
use crate::params::Params;
use crate::{Result, ops};

/// `fc2(gelu(fc1(x)))`, with exact GELU by default: the feed-forward layer of a transformer (Vaswani et al., NeurIPS 2017,
/// Sec. 3.3).
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
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, dim: usize, hidden: usize) -> Result<Self> {
        let fc1 = Linear::new(&params.pp("fc1"), dim, hidden)?;
        Ok(Self {
            fc1,
            fc2: Linear::new(&params.pp("fc2"), hidden, dim)?,
            activation: Activation::Gelu,
        })
    }

    /// As [`Mlp::new`], without biases.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn no_bias(params: &Params, dim: usize, hidden: usize) -> Result<Self> {
        let fc1 = Linear::no_bias(&params.pp("fc1"), dim, hidden)?;
        Ok(Self {
            fc1,
            fc2: Linear::no_bias(&params.pp("fc2"), hidden, dim)?,
            activation: Activation::Gelu,
        })
    }

    /// Hidden width: `ratio` times `dim`, rounded down.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a layer's width"
    )]
    pub(crate) fn hidden(dim: usize, ratio: f64) -> usize {
        (dim as f64 * ratio) as usize
    }

    /// Sets the activation.
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

    /// `xs + forward(norm(xs))` as one operation; `None` unless the activation is GELU and both
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
