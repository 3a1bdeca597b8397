//! An encoder with a regressor of hidden patches behind it.

use candle_core::Tensor;

use super::check;
use crate::decoders::LatentRegressor;
use crate::{EncodeOptions, Encoded, Encoder, Error, Masking, PatchGrid, Result, StepContext};

/// An encoder of visible patches whose tokens, under a mask, are latents of the hidden ones (Chen et al., IJCV 2023):
/// several decoders read what the regressor computes once.
///
/// Downstream tasks use the encoder inside, [`Encoder::trunk`]; so do images without a mask.
#[derive(Debug, Clone)]
pub struct Regressed<E> {
    trunk: E,
    regressor: LatentRegressor,
}

impl<E: Encoder> Regressed<E> {
    /// Puts `regressor` behind `trunk`.
    pub fn new(trunk: E, regressor: LatentRegressor) -> Self {
        Self { trunk, regressor }
    }
}

impl<E: Encoder> Encoder for Regressed<E> {
    /// That of the encoder inside.
    fn dim(&self) -> usize {
        self.trunk.dim()
    }

    fn trunk(&self) -> &dyn Encoder {
        self.trunk.trunk()
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        self.trunk.grid(image)
    }

    /// Under a mask, `[mask rows, hidden, embed_dim]` in the mask's order, without class token; traced as `regressed`.
    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        check::no_order("a regressor", masking)?;
        if let Masking::Replace(_) = masking {
            return Err(Error::unsupported(
                "a regressor behind an encoder that sees hidden patches",
                "it predicts their latents from the visible ones",
                "drop hidden patches (MaskMode::Drop)",
            ));
        }
        let encoded = self.trunk.encode(image, masking, want, step)?;
        let Masking::Drop(mask) = masking else {
            return Ok(encoded);
        };
        let tokens = self.regressor.latents(&encoded, mask, step)?;
        step.trace("regressed", || Ok(tokens.clone()))?;
        Ok(Encoded {
            tokens,
            prefix: 0,
            ..encoded
        })
    }
}
