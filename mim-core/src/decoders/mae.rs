//! MAE's decoder: a light transformer over visible tokens and mask tokens.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::image_order::in_image_order;
use super::{DecoderSettings, DecoderShape, TokensNeeded};
use crate::nn::{Block, BlockConfig, LayerNorm, Linear, NormKind, PosEmbed, PosEmbedKind, QkvBias};
use crate::params::Params;
use crate::parts::Part;
use crate::{DecodeContext, Decoder, Error, Prediction, Result, Rows};

/// First random stream of stochastic depth, after those of the encoder's blocks, which start at 0.
const FIRST_LANE: u32 = 1 << 16;

/// Settings of [`MaeDecoder`]; `Default` is MAE's for every encoder size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaeDecoderConfig {
    /// Width of the tokens; a multiple of `num_heads` and of 4. Default 512.
    pub embed_dim: usize,
    /// Number of blocks. Default 8.
    pub depth: usize,
    /// Attention heads. Default 16.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of `embed_dim`. Default 4.
    pub mlp_ratio: f64,
    /// Epsilon of all norms. Default 1e-6.
    pub norm_eps: f64,
    /// Positions added to the tokens. Default `sincos`.
    pub pos_embed: PosEmbedKind,
}

impl Default for MaeDecoderConfig {
    fn default() -> Self {
        Self {
            embed_dim: 512,
            depth: 8,
            num_heads: 16,
            mlp_ratio: 4.,
            norm_eps: 1e-6,
            pos_embed: PosEmbedKind::Sincos,
        }
    }
}

impl MaeDecoderConfig {
    /// A small size for images of 32 pixels, used by recipes that end in `_32px`.
    pub fn small() -> Self {
        Self {
            embed_dim: 64,
            depth: 2,
            num_heads: 4,
            ..Self::default()
        }
    }
}

impl Part for MaeDecoderConfig {
    const ABOUT: &'static str = "hidden patches from the visible ones, by self-attention";
    const PAPER: &'static str =
        "MAE: He et al., CVPR 2022, arXiv 2111.06377; facebookresearch/mae @ efb2a80";
    const SMALL: &'static str = r#"
embed_dim = 64
depth = 2
num_heads = 4
"#;
}

impl DecoderSettings for MaeDecoderConfig {
    fn tokens(&self) -> TokensNeeded {
        TokensNeeded::Visible
    }

    fn build(&self, params: &Params, shape: DecoderShape) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(MaeDecoder::new(params, self, shape)?))
    }
}

/// Predicts hidden patches from the visible ones (He et al., CVPR 2022, section 3).
///
/// Tokens stay in the mask's order, each with the position of its patch. Attention does not depend
/// on order, so the result equals that of the authors' shuffle back to image order.
#[derive(Debug, Clone)]
pub struct MaeDecoder {
    embed: Linear,
    mask_token: Tensor,
    pos_embed: Option<PosEmbed>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    pred: Linear,
    class_token: bool,
}

impl MaeDecoder {
    /// Parameters `decoder_embed`, `mask_token`, `decoder_pos_embed`, `decoder_blocks.N`,
    /// `decoder_norm`, `decoder_pred`.
    ///
    /// The position table has a row for the class token; see [`MaeDecoder::with_prefix`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &MaeDecoderConfig, shape: DecoderShape) -> Result<Self> {
        Self::with_prefix(params, config, shape, 1)
    }

    /// As [`MaeDecoder::new`], for an encoder with `prefix` class tokens, each with a row in the position table.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn with_prefix(
        params: &Params,
        config: &MaeDecoderConfig,
        shape: DecoderShape,
        prefix: usize,
    ) -> Result<Self> {
        let DecoderShape {
            inputs,
            outputs,
            grid,
            ..
        } = shape;
        let dim = config.embed_dim;
        if config.num_heads == 0 || !dim.is_multiple_of(config.num_heads) {
            return Err(Error::config(
                "decoder",
                "num_heads",
                config.num_heads,
                format!("embed_dim = {dim} must be a multiple of it"),
                "change decoder.num_heads or decoder.embed_dim",
            ));
        }
        let block = BlockConfig {
            dim,
            num_heads: config.num_heads,
            mlp_ratio: config.mlp_ratio,
            qkv_bias: QkvBias::Full,
            norm: NormKind::LayerNorm,
            norm_eps: config.norm_eps,
            layer_scale_init: None,
            drop_path: 0.,
        };
        let blocks = params.pp("decoder_blocks");
        Ok(Self {
            embed: Linear::new(&params.pp("decoder_embed"), inputs, dim)?,
            mask_token: params.weight(&[1, 1, dim], "mask_token")?,
            pos_embed: PosEmbed::new(
                params,
                "decoder_pos_embed",
                config.pos_embed,
                dim,
                (grid, prefix),
            )?,
            blocks: (0..config.depth)
                .map(|index| Block::new(&blocks.pp(index), &block, 0))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(&params.pp("decoder_norm"), dim, config.norm_eps)?,
            pred: Linear::new(&params.pp("decoder_pred"), dim, outputs)?,
            class_token: false,
        })
    }

    /// Also predicts the class token: [`Rows::ClsAndPatches`] (dBOT).
    #[must_use]
    pub fn with_class_token(mut self) -> Self {
        self.class_token = true;
        self
    }

    /// Adds stochastic depth; the rate grows linearly from 0 to `rate` in the last block (dBOT).
    #[must_use]
    pub fn drop_path(mut self, rate: f64) -> Self {
        let last = self.blocks.len().saturating_sub(1).max(1) as f64;
        let blocks = std::mem::take(&mut self.blocks).into_iter().zip(0u32..);
        let dropping = |(block, index): (Block, u32)| {
            block.drop_path(rate * f64::from(index) / last, FIRST_LANE + index)
        };
        self.blocks = blocks.map(dropping).collect();
        self
    }
}

impl MaeDecoder {
    /// All tokens after the blocks, before the norm, `[rows, prefix + width, dim]`: class token,
    /// visible and hidden patches in the mask's order.
    pub(super) fn tokens(&self, cx: &DecodeContext<'_>) -> Result<Tensor> {
        self.tokens_from(0, cx)
    }

    /// [`MaeDecoder::tokens`] from token `first` on.
    fn tokens_from(&self, first: usize, cx: &DecodeContext<'_>) -> Result<Tensor> {
        cx.needs_visible("MAE's decoder")?;
        let device = cx.encoded.tokens.device();
        let known = self.embed.forward(&cx.encoded.tokens)?;
        let (rows, prefix) = (known.dim(0)?, cx.encoded.prefix);
        let hidden = cx.mask.width() + prefix - known.dim(1)?;
        let unknown = self
            .mask_token
            .broadcast_as((rows, hidden, self.mask_token.dim(2)?))?;
        let mut xs = Tensor::cat(&[&known, &unknown], 1)?;
        if let Some(table) = &self.pos_embed {
            let patches = table.select(cx.mask, &cx.mask.ids_order(device)?)?;
            let positions = match prefix {
                0 => patches,
                _ => {
                    let cls = table.prefix()?;
                    let cls = cls.broadcast_as((rows, prefix, patches.dim(2)?))?;
                    Tensor::cat(&[&cls, &patches], 1)?
                }
            };
            xs = (xs + positions)?;
        }
        Block::run(&self.blocks, xs, first, cx.step)
    }

    /// The patches in `tokens`, normalised, in the mask's order.
    pub(super) fn patches(&self, tokens: &Tensor, cx: &DecodeContext<'_>) -> Result<Tensor> {
        let patches = tokens.narrow(1, cx.encoded.prefix, cx.mask.width())?;
        self.norm.forward(&patches)
    }

    /// The outputs for normalised tokens, or for means of such tokens.
    pub(super) fn output(&self, normalised: &Tensor) -> Result<Tensor> {
        self.pred.forward(normalised)
    }

    /// The outputs for all patches in image order, `[rows, tokens, outputs]`.
    pub(super) fn image(&self, tokens: &Tensor, cx: &DecodeContext<'_>) -> Result<Tensor> {
        let patches = self.output(&self.patches(tokens, cx)?)?;
        in_image_order(&patches, cx.mask)
    }
}

impl MaeDecoder {
    /// The outputs for the class token and all patches in image order, `[rows, 1 + tokens, outputs]`.
    fn class_and_patches(&self, cx: &DecodeContext<'_>) -> Result<Tensor> {
        if cx.encoded.prefix != 1 {
            return Err(Error::unsupported(
                "predicting the class token",
                "the encoder has no class token",
                "set encoder.class_token = true",
            ));
        }
        let all = self.output(&self.norm.forward(&self.tokens(cx)?)?)?;
        let patches = all.narrow(1, 1, cx.mask.width())?.contiguous()?;
        let patches = in_image_order(&patches, cx.mask)?;
        Ok(Tensor::cat(&[&all.narrow(1, 0, 1)?, &patches], 1)?)
    }
}

impl Decoder for MaeDecoder {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        let grid = cx.mask.grid();
        if self.class_token {
            return Ok(Prediction {
                values: self.class_and_patches(cx)?,
                rows: Rows::ClsAndPatches,
                grid,
            });
        }
        if cx.step.trace.is_some() {
            return Ok(Prediction {
                values: self.image(&self.tokens(cx)?, cx)?,
                rows: Rows::Patches,
                grid,
            });
        }
        let hidden = self.tokens_from(cx.encoded.tokens.dim(1)?, cx)?;
        Ok(Prediction {
            values: self.output(&self.norm.forward(&hidden)?)?,
            rows: Rows::Masked,
            grid,
        })
    }
}
