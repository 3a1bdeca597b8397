//! Non-linearities of feed-forward layers.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Result, ops};

/// The non-linearity between the two layers of an [`Mlp`](super::Mlp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Φ(x)`, exact.
    #[default]
    Gelu,
    /// `x σ(1.702 x)`, as in OpenAI's CLIP.
    QuickGelu,
}

impl Activation {
    /// Applies it to each value of a tensor of any shape.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn forward(self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => Ok(ops::gelu(xs)?),
            Self::QuickGelu => Ok(ops::quick_gelu(xs)?),
        }
    }
}
