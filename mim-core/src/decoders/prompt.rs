//! MILAN's decoder: updates only mask tokens; the encoder's tokens are the prompt.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::image_order::in_image_order;
use super::mae::MaeDecoderConfig;
use super::{DecoderSettings, DecoderShape, TokensNeeded};
use crate::nn::{CrossAttention, LayerNorm, Linear, Mlp, PosEmbed, QkvBias};
use crate::params::Params;
use crate::parts::Part;
use crate::{DecodeContext, Decoder, Error, Prediction, Result, Rows};

/// Settings of [`PromptDecoder`]: the same as of MAE's decoder.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PromptDecoderConfig(pub MaeDecoderConfig);

impl Part for PromptDecoderConfig {
    const ABOUT: &'static str = "hidden patches from the visible ones, whose tokens do not change";
    const PAPER: &'static str =
        "MILAN: Hou et al., 2022, arXiv 2208.06049; zejiangh/MILAN @ 7dcfe0f";
    const SMALL: &'static str = MaeDecoderConfig::SMALL;
}

impl DecoderSettings for PromptDecoderConfig {
    fn tokens(&self) -> TokensNeeded {
        TokensNeeded::Visible
    }

    fn build(&self, params: &Params, shape: DecoderShape) -> Result<Box<dyn Decoder>> {
        let output = PromptOutput::Hidden;
        let decoder = PromptDecoder::new(params, &self.0, shape, output)?;
        Ok(Box::new(decoder))
    }
}

/// `h = norm1(q); q += attn(h, [F | h]); q += mlp(norm2(q))`: mask tokens `q` attend to each other and to the encoder's
/// tokens `F`, which stay unchanged.
#[derive(Debug, Clone)]
struct PromptBlock {
    norm1: LayerNorm,
    attn: CrossAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl PromptBlock {
    fn new(params: &Params, config: &MaeDecoderConfig) -> Result<Self> {
        let MaeDecoderConfig {
            embed_dim: dim,
            num_heads,
            norm_eps,
            ..
        } = *config;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a layer's width"
        )]
        let hidden = (dim as f64 * config.mlp_ratio) as usize;
        let attn = params.pp("attn");
        Ok(Self {
            norm1: LayerNorm::new(&params.pp("norm1"), dim, norm_eps)?,
            attn: CrossAttention::new(&attn, (dim, dim), num_heads, QkvBias::Full)?,
            norm2: LayerNorm::new(&params.pp("norm2"), dim, norm_eps)?,
            mlp: Mlp::new(&params.pp("mlp"), dim, hidden)?,
        })
    }

    fn forward(&self, hidden: &Tensor, prompt: &Tensor) -> Result<Tensor> {
        let query = self.norm1.forward(hidden)?;
        let context = Tensor::cat(&[prompt, &query], 1)?;
        let xs = (hidden + self.attn.forward(&query, &context)?)?;
        Ok((&xs + self.mlp.forward(&self.norm2.forward(&xs)?)?)?)
    }
}

/// What a [`PromptDecoder`] predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptOutput {
    /// All patches, and the class token if there is one: for features.
    All,
    /// The hidden patches: for pixels.
    Hidden,
}

/// Predicts patches with the encoder's tokens as fixed keys and values: a block updates only the mask
/// tokens (MILAN, Hou et al., arXiv 2208.06049, section 3.2).
///
/// Tokens are in the mask's order, as in [`MaeDecoder`](super::MaeDecoder).
#[derive(Debug, Clone)]
pub struct PromptDecoder {
    embed: Linear,
    mask_token: Tensor,
    pos_embed: Option<PosEmbed>,
    blocks: Vec<PromptBlock>,
    norm: LayerNorm,
    pred: Linear,
    output: PromptOutput,
}

impl PromptDecoder {
    /// Parameters `decoder_embed`, `mask_token`, `decoder_pos_embed`, `decoder_blocks.N`,
    /// `decoder_norm`, `decoder_pred`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(
        params: &Params,
        config: &MaeDecoderConfig,
        shape: DecoderShape,
        output: PromptOutput,
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
        let blocks = params.pp("decoder_blocks");
        let positions = (config.pos_embed, dim, (grid, 1));
        Ok(Self {
            embed: Linear::new(&params.pp("decoder_embed"), inputs, dim)?,
            mask_token: params.weight(&[1, 1, dim], "mask_token")?,
            pos_embed: PosEmbed::new(
                params,
                "decoder_pos_embed",
                positions.0,
                positions.1,
                positions.2,
            )?,
            blocks: (0..config.depth)
                .map(|index| PromptBlock::new(&blocks.pp(index), config))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(&params.pp("decoder_norm"), dim, config.norm_eps)?,
            pred: Linear::new(&params.pp("decoder_pred"), dim, outputs)?,
            output,
        })
    }

    /// The encoder's tokens with their positions (class token first), and the mask tokens with theirs.
    fn input(&self, cx: &DecodeContext<'_>) -> Result<(Tensor, Tensor)> {
        cx.needs_visible("a prompting decoder")?;
        let mut known = self.embed.forward(&cx.encoded.tokens)?;
        let (ids, prefix) = (cx.mask.ids_masked(known.device())?, cx.encoded.prefix);
        let (rows, hidden) = ids.dims2()?;
        let shape = (rows, hidden, self.mask_token.dim(2)?);
        let mut unknown = self.mask_token.broadcast_as(shape)?;
        if let Some(table) = &self.pos_embed {
            let visible = table.select(cx.mask, &cx.mask.ids_keep(known.device())?)?;
            let positions = match prefix {
                0 => visible,
                _ => {
                    let class = table.prefix()?;
                    let class = class.broadcast_as((rows, prefix, class.dim(2)?))?;
                    Tensor::cat(&[&class, &visible], 1)?
                }
            };
            known = (known + positions)?;
            unknown = (unknown + table.select(cx.mask, &ids)?)?;
        }
        Ok((known, unknown))
    }

    fn predict(&self, xs: &Tensor) -> Result<Tensor> {
        self.pred.forward(&self.norm.forward(xs)?)
    }
}

impl Decoder for PromptDecoder {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        let (known, mut unknown) = self.input(cx)?;
        for block in &self.blocks {
            unknown = block.forward(&unknown, &known)?;
        }
        let grid = cx.mask.grid();
        if self.output == PromptOutput::Hidden && cx.step.trace.is_none() {
            return Ok(Prediction {
                values: self.predict(&unknown)?,
                rows: Rows::Masked,
                grid,
            });
        }
        let prefix = cx.encoded.prefix;
        let all = self.predict(&Tensor::cat(&[&known, &unknown], 1)?)?;
        let patches = in_image_order(&all.narrow(1, prefix, cx.mask.width())?, cx.mask)?;
        let (values, rows) = match self.output {
            PromptOutput::All if prefix == 1 => {
                let class = all.narrow(1, 0, 1)?;
                (Tensor::cat(&[&class, &patches], 1)?, Rows::ClsAndPatches)
            }
            PromptOutput::All | PromptOutput::Hidden => (patches, Rows::Patches),
        };
        Ok(Prediction { values, rows, grid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PatchGrid;
    use crate::{Batch, Encoded, Mask, ParamStore, StepContext, TraceSink, View};
    use candle_core::{DType, Device};
    use std::sync::Arc;

    const GRID: PatchGrid = PatchGrid { rows: 1, cols: 4 };

    struct NoTrace;

    impl TraceSink for NoTrace {
        fn record(&self, _name: &str, _value: &Tensor) -> Result<()> {
            Ok(())
        }
    }

    fn decode(output: PromptOutput, tokens: usize, traced: bool) -> Result<Prediction> {
        let config = MaeDecoderConfig {
            embed_dim: 8,
            depth: 2,
            num_heads: 2,
            ..MaeDecoderConfig::default()
        };
        let params = ParamStore::cpu(0).root();
        let decoder = PromptDecoder::new(&params, &config, DecoderShape::new(GRID, 4, 3), output)?;
        let xs = Tensor::arange(0f32, (tokens * 4) as f32, &Device::Cpu)?;
        let encoded = Encoded {
            tokens: xs.reshape((1, tokens, 4))?.sin()?,
            prefix: 1,
            layers: vec![],
            cls_attention: None,
            grid: GRID,
        };
        let mask = Mask::new(GRID, vec![2, 0, 3, 1], vec![2])?;
        let pixels = Tensor::zeros((1, 3, 1, 4), DType::F32, &Device::Cpu)?;
        let batch = Batch::single(View::new(pixels, vec![])?);
        let mut step = StepContext::new(0);
        if traced {
            step.trace = Some(Arc::new(NoTrace));
        }
        decoder.decode(&DecodeContext {
            encoded: &encoded,
            mask: &mask,
            batch: &batch,
            step: &step,
        })
    }

    fn rows(prediction: &Prediction) -> Vec<Vec<f32>> {
        prediction.values.squeeze(0).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn hidden_patches_are_the_same_in_every_output() {
        let hidden = decode(PromptOutput::Hidden, 3, false).unwrap();
        let whole = decode(PromptOutput::Hidden, 3, true).unwrap();
        let all = decode(PromptOutput::All, 3, false).unwrap();
        assert_eq!(
            [hidden.rows, whole.rows, all.rows],
            [Rows::Masked, Rows::Patches, Rows::ClsAndPatches]
        );
        let (hidden, whole, all) = (rows(&hidden), rows(&whole), rows(&all));
        assert_eq!(all[1..], whole);
        for (own, image) in hidden.iter().zip([&whole[3], &whole[1]]) {
            for (a, b) in own.iter().zip(image) {
                assert!((a - b).abs() < 1e-6, "{a} against {b}");
            }
        }
    }

    #[test]
    fn refuses_a_full_view() {
        let error = decode(PromptOutput::All, 5, false).unwrap_err().to_string();
        assert!(error.contains("MaskMode::Drop"), "{error}");
    }
}
