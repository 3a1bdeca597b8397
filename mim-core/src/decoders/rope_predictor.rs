//! CAPI's predictor: mask tokens attend to an encoder's output.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::nn::{Placed, RmsNorm, RopeBlock, RopeBlockConfig};
use crate::params::Params;
use crate::{Error, Result, StepContext};

/// The first number of the blocks' random streams, so that they draw other rows than an encoder's blocks.
const BLOCKS: u32 = 1000;

/// Settings of [`RopePredictor`]; `Default` is CAPI's with ViT-L.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RopePredictorConfig {
    /// Width of the tokens; a multiple of 4 times `num_heads`. Default 1024.
    pub embed_dim: usize,
    /// Number of blocks. Default 12.
    pub depth: usize,
    /// Attention heads. Default 16.
    pub num_heads: usize,
}

impl Default for RopePredictorConfig {
    fn default() -> Self {
        Self {
            embed_dim: 1024,
            depth: 12,
            num_heads: 16,
        }
    }
}

/// Predicts tokens of hidden patches from a mask token at their positions, by blocks that attend to an encoder's tokens
/// but not to each other (Darcet et al., TMLR 2025, section 3.1).
#[derive(Debug, Clone)]
pub struct RopePredictor {
    mask_token: Tensor,
    blocks: Vec<RopeBlock>,
    norm: RmsNorm,
}

impl RopePredictor {
    /// Parameters `mask_token`, `blocks.N`; the other settings of the blocks, and the width of the context, follow the
    /// `encoder`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(
        params: &Params,
        config: &RopePredictorConfig,
        encoder: &RopeBlockConfig,
    ) -> Result<Self> {
        let block = RopeBlockConfig {
            dim: config.embed_dim,
            context_dim: Some(encoder.dim),
            num_heads: config.num_heads,
            ..*encoder
        };
        block.validate("predictor")?;
        if config.depth == 0 {
            let (why, fix) = ("it needs at least one block", "use 1 or more");
            return Err(Error::config("predictor", "depth", 0, why, fix));
        }
        let blocks = params.pp("blocks");
        let number = |index: usize| BLOCKS + u32::try_from(index).unwrap_or(u32::MAX / 8);
        Ok(Self {
            mask_token: params.weight(&[1, config.embed_dim], "mask_token")?,
            blocks: (0..config.depth)
                .map(|index| RopeBlock::new(&blocks.pp(index), &block, number(index)))
                .collect::<Result<_>>()?,
            norm: RmsNorm::plain(encoder.norm_eps),
        })
    }

    /// Predicts tokens `[rows, n, embed_dim]` at `places` `[rows, n, 2]`.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn predict(
        &self,
        places: &Tensor,
        context: Placed<'_>,
        step: &StepContext,
    ) -> Result<Tensor> {
        let (rows, count, _) = places.dims3()?;
        let mut xs = self
            .mask_token
            .broadcast_as((rows, count, self.mask_token.dim(1)?))?
            .contiguous()?;
        for block in &self.blocks {
            let placed = Placed {
                tokens: &xs,
                positions: places,
            };
            xs = block.forward(placed, Some(context), step)?;
        }
        self.norm.forward(&xs)
    }
}
