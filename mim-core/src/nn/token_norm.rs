//! A choice of norms for blocks.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{BatchNorm, LayerNorm};
use crate::params::Params;
use crate::{Result, StepContext};

/// Kind of norm in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Over the channels of each token.
    #[default]
    LayerNorm,
    /// Per channel over all tokens of the batch (SIM's projector and predictor).
    BatchNorm,
}

/// A norm over `[rows, tokens, dim]`.
#[derive(Debug, Clone)]
pub enum TokenNorm {
    /// [`LayerNorm`].
    Layer(LayerNorm),
    /// [`BatchNorm`].
    Batch(BatchNorm),
}

impl TokenNorm {
    /// The parameters of the chosen norm: `weight`, `bias`, or those of batch norm under `bn`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, kind: NormKind, dim: usize, eps: f64) -> Result<Self> {
        Ok(match kind {
            NormKind::LayerNorm => Self::Layer(LayerNorm::new(params, dim, eps)?),
            NormKind::BatchNorm => Self::Batch(BatchNorm::new(&params.pp("bn"), dim, eps)?),
        })
    }

    /// Normalises `[..., dim]`.
    ///
    /// # Errors
    ///
    /// What the chosen norm returns.
    pub fn forward(&self, xs: &Tensor, step: &StepContext) -> Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward(xs),
            Self::Batch(norm) => norm.forward(xs, step),
        }
    }
}
