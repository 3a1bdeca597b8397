//! An encoder followed by a regressor of hidden patches.

use candle_core::Tensor;

use super::check;
use crate::decoders::LatentRegressor;
use crate::{EncodeOptions, Encoded, Encoder, Error, Masking, PatchGrid, Result, StepContext};

/// An encoder of visible patches, followed by a regressor. Under a mask, its tokens are latents of the hidden patches
/// (Chen et al., IJCV 2023), so that several decoders share one regressor pass.
///
/// Downstream tasks, and images without a mask, use the inner encoder, [`Encoder::trunk`].
#[derive(Debug, Clone)]
pub struct Regressed<E> {
    trunk: E,
    regressor: LatentRegressor,
}

impl<E: Encoder> Regressed<E> {
    /// Puts `regressor` after `trunk`.
    pub fn new(trunk: E, regressor: LatentRegressor) -> Self {
        Self { trunk, regressor }
    }
}

impl<E: Encoder> Encoder for Regressed<E> {
    /// Width of the inner encoder.
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
                "a regressor after an encoder that sees hidden patches",
                "the regressor must predict their latents from visible patches",
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
