//! Pooling: one feature per image from its tokens.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Encoded, Error, Result};

/// How tokens are pooled to one feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean of the final patch tokens, without the class token.
    #[default]
    Mean,
    /// The maximum of each channel over the final patch tokens, without the class token (point clouds).
    Max,
    /// The final class token.
    Cls,
}

impl Pooling {
    /// The features `[rows, dim]` of the final tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for the class token of an encoder that has none.
    pub fn apply(self, encoded: &Encoded) -> Result<Tensor> {
        self.of_tokens(&encoded.tokens, encoded.prefix)
    }

    /// The features `[rows, dim]` of the tokens after block `layer`, which must have been requested.
    ///
    /// # Errors
    ///
    /// As [`Pooling::apply`] and [`Encoded::layer`].
    pub fn of_layer(self, encoded: &Encoded, layer: usize) -> Result<Tensor> {
        self.of_tokens(encoded.layer(layer)?, encoded.prefix)
    }

    fn of_tokens(self, tokens: &Tensor, prefix: usize) -> Result<Tensor> {
        let patches = tokens.dim(1)? - prefix;
        match self {
            Self::Mean => Ok(tokens.narrow(1, prefix, patches)?.mean(1)?),
            Self::Max => Ok(tokens.narrow(1, prefix, patches)?.contiguous()?.max(1)?),
            Self::Cls if prefix > 0 => Ok(tokens.narrow(1, 0, 1)?.squeeze(1)?),
            Self::Cls => Err(Error::unsupported(
                "pooling = \"cls\"",
                "the encoder has no class token",
                "use pooling = \"mean\"",
            )),
        }
    }
}
