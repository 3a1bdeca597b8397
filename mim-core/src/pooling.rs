//! From the tokens of an image to one feature.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Encoded, Error, Result};

/// How the tokens of an image become one feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean of the final patch tokens, without the class token.
    #[default]
    Mean,
    /// The final class token.
    Cls,
}

impl Pooling {
    /// The features `[rows, dim]`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for the class token of an encoder that has none.
    pub fn apply(self, encoded: &Encoded) -> Result<Tensor> {
        match self {
            Self::Mean => Ok(encoded.patches()?.mean(1)?),
            Self::Cls => encoded.cls()?.ok_or_else(|| {
                Error::unsupported(
                    "pooling = \"cls\"",
                    "the encoder has no class token",
                    "use pooling = \"mean\"",
                )
            }),
        }
    }
}
