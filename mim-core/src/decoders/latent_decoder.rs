//! CAE's decoder: predictions from latents of hidden patches.

use candle_core::Tensor;

use super::{LatentRegressor, LatentRegressorConfig};
use crate::nn::{Block, BlockConfig, LayerNorm, Linear, NormKind, PosEmbed, QkvBias};
use crate::params::Params;
use crate::{DecodeContext, Decoder, Error, Mask, Prediction, Result, Rows, StepContext};

/// First random stream of the blocks, so that their draws differ from those of the encoder's blocks.
const BLOCKS: u32 = 2000;

/// Predicts hidden patches from their latents, by blocks with self-attention among them (Chen et al., IJCV 2023, Sec.
/// 3.2).
///
/// Needs an encoder whose tokens are latents of hidden patches: [`Regressed`](crate::encoders::Regressed).
#[derive(Debug, Clone)]
pub struct LatentDecoder {
    pos_embed: PosEmbed,
    blocks: Vec<Block>,
    norm: LayerNorm,
    pred: Linear,
}

impl LatentDecoder {
    /// Parameters `decoder_blocks.N`, `decoder_norm`, `decoder_pred`; positions come from the regressor.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(
        params: &Params,
        config: &LatentRegressorConfig,
        regressor: &LatentRegressor,
        outputs: usize,
    ) -> Result<Self> {
        let (dim, depth) = (config.embed_dim, config.decoder_depth);
        let block = |index: usize| {
            let block = BlockConfig {
                dim,
                num_heads: config.num_heads,
                mlp_ratio: config.mlp_ratio,
                qkv_bias: QkvBias::QV,
                norm: NormKind::LayerNorm,
                norm_eps: config.norm_eps,
                layer_scale_init: Some(config.layer_scale_init),
                drop_path: config.drop_path(index, depth),
            };
            let number = BLOCKS + u32::try_from(index).unwrap_or(u32::MAX / 8);
            Block::new(&params.pp("decoder_blocks").pp(index), &block, number)
        };
        Ok(Self {
            pos_embed: regressor.pos_embed.clone(),
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::new(&params.pp("decoder_norm"), dim, config.norm_eps)?,
            pred: Linear::new(&params.pp("decoder_pred"), dim, outputs)?,
        })
    }

    /// Predictions from latents `[rows, hidden, embed_dim]` in the mask's order.
    pub(super) fn predict(
        &self,
        latents: &Tensor,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<Prediction> {
        let places = mask.ids_masked(latents.device())?;
        let xs = (latents + self.pos_embed.select(mask, &places)?)?;
        let xs = Block::run(&self.blocks, xs, 0, step)?;
        Ok(Prediction {
            values: self.pred.forward(&self.norm.forward(&xs)?)?,
            rows: Rows::Masked,
            grid: mask.grid(),
        })
    }
}

impl Decoder for LatentDecoder {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        needs_latents(cx)?;
        self.predict(&cx.encoded.tokens, cx.mask, cx.step)
    }
}

/// Returns the latents themselves, for an encoder whose tokens are latents of hidden patches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Latents;

impl Decoder for Latents {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        needs_latents(cx)?;
        Ok(Prediction {
            values: cx.encoded.tokens.clone(),
            rows: Rows::Masked,
            grid: cx.mask.grid(),
        })
    }
}

/// Refuses an encoder whose tokens are not latents of hidden patches.
fn needs_latents(cx: &DecodeContext<'_>) -> Result<()> {
    let hidden = cx.mask.width() - cx.mask.exact_keep()?;
    let (rows, tokens, _) = cx.encoded.tokens.dims3()?;
    if (rows, tokens, cx.encoded.prefix) == (cx.mask.rows(), hidden, 0) {
        return Ok(());
    }
    Err(Error::unsupported(
        "a decoder of latents after this encoder",
        "its tokens are not those of the hidden patches",
        "put a regressor after the encoder (encoders::Regressed)",
    ))
}
