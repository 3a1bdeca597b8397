//! BootMAE's decoders: light transformers that also read one block of the encoder.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::image_order::in_image_order;
use crate::nn::{CrossBlock, CrossBlockConfig, LayerNorm, Linear, PatchUnembed, PosEmbed};
use crate::params::Params;
use crate::{DecodeContext, Decoder, Encoded, Error, Mask, Prediction, Result, Rows};

const NAME: &str = "injected decoder";

/// Settings of [`InjectDecoder`]; `Default` is BootMAE's pixel decoder with ViT-B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InjectDecoderConfig {
    /// Width of the tokens; a multiple of 4. Default 512.
    pub embed_dim: usize,
    /// Number of blocks. Default 2.
    pub depth: usize,
    /// Attention heads, each `embed_dim / num_heads` wide, rounded down. Default 12, as in the encoder.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of `embed_dim`. Default 4.
    pub mlp_ratio: f64,
    /// Epsilon of all norms. Default 1e-6.
    pub norm_eps: f64,
    /// Block of the encoder, from 0, whose output is injected; `None` (the default) for the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
}

impl Default for InjectDecoderConfig {
    fn default() -> Self {
        Self {
            embed_dim: 512,
            depth: 2,
            num_heads: 12,
            mlp_ratio: 4.,
            norm_eps: 1e-6,
            layer: None,
        }
    }
}

impl InjectDecoderConfig {
    /// The injected block, for an encoder of `blocks` blocks; also checks the other settings.
    fn check(&self, blocks: usize) -> Result<usize> {
        let bad = |field: &'static str, value: String, why: String, fix: &'static str| {
            Err(Error::config(NAME, field, value, why, fix))
        };
        if self.num_heads == 0 || self.num_heads > self.embed_dim {
            let why = format!("it must be between 1 and embed_dim = {}", self.embed_dim);
            let fix = "use the num_heads of the encoder";
            return bad("num_heads", self.num_heads.to_string(), why, fix);
        }
        if self.norm_eps.is_nan() || self.norm_eps <= 0. {
            let why = "it must be positive".to_owned();
            return bad("norm_eps", self.norm_eps.to_string(), why, "use 1e-6");
        }
        let hidden = self.mlp_ratio * self.embed_dim as f64;
        if hidden.is_nan() || hidden < 1. {
            let why = "the hidden layer would be empty".to_owned();
            return bad("mlp_ratio", self.mlp_ratio.to_string(), why, "use 4");
        }
        match (self.layer, blocks.checked_sub(1)) {
            (None, Some(last)) => Ok(last),
            (Some(layer), Some(last)) if layer <= last => Ok(layer),
            (layer, _) => {
                let why = format!("the encoder has {blocks} blocks, counted from 0");
                let fix = "use one of them, or remove it for the last one";
                bad("layer", layer.unwrap_or_default().to_string(), why, fix)
            }
        }
    }
}

/// What an [`InjectDecoder`] predicts per patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectOutput {
    /// Its pixels, by a transposed convolution.
    Pixels {
        /// Channels of the images.
        channels: usize,
        /// Side of a patch.
        patch_size: usize,
    },
    /// This many values, by a linear layer.
    Values(usize),
}

#[derive(Debug, Clone)]
enum Head {
    Pixels(PatchUnembed),
    Values(Linear),
}

/// Predicts hidden patches from the visible ones and from the output of one block of the encoder, to
/// which each decoder block attends (BootMAE, Dong et al., ECCV 2022, section 3.2).
///
/// Only hidden patches get a position. Tokens are in the mask's order, as in [`MaeDecoder`](super::MaeDecoder). Traces
/// its input as `decoder_in` (image order, class token first) and the `injected` tokens.
#[derive(Debug, Clone)]
pub struct InjectDecoder {
    layer: [usize; 1],
    embed: Linear,
    mask_token: Tensor,
    pos_embed: Option<PosEmbed>,
    blocks: Vec<CrossBlock>,
    norm: LayerNorm,
    head: Head,
}

impl InjectDecoder {
    /// Parameters `decoder_embed`, `mask_token`, `decoder_blocks.N`, `decoder_norm`, `decoder_pred`.
    ///
    /// The encoder is `dim` wide and `depth` blocks deep; `pos_embed` is as wide as this decoder, and is a
    /// separate table or the encoder's.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid or the encoder lacks that block.
    pub fn new(
        params: &Params,
        config: &InjectDecoderConfig,
        (encoder_dim, encoder_depth): (usize, usize),
        pos_embed: Option<PosEmbed>,
        output: InjectOutput,
    ) -> Result<Self> {
        let layer = config.check(encoder_depth)?;
        let dim = config.embed_dim;
        let block = CrossBlockConfig {
            dim,
            context_dim: encoder_dim,
            num_heads: config.num_heads,
            mlp_ratio: config.mlp_ratio,
            norm_eps: config.norm_eps,
        };
        let (blocks, pred) = (params.pp("decoder_blocks"), params.pp("decoder_pred"));
        Ok(Self {
            layer: [layer],
            embed: Linear::new(&params.pp("decoder_embed"), encoder_dim, dim)?,
            mask_token: params.weight(&[1, 1, dim], "mask_token")?,
            pos_embed,
            blocks: (0..config.depth)
                .map(|index| CrossBlock::new(&blocks.pp(index), &block))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(&params.pp("decoder_norm"), dim, config.norm_eps)?,
            head: match output {
                InjectOutput::Pixels {
                    channels,
                    patch_size,
                } => Head::Pixels(PatchUnembed::new(&pred, dim, channels, patch_size)?),
                InjectOutput::Values(values) => Head::Values(Linear::new(&pred, dim, values)?),
            },
        })
    }

    /// The embedded visible tokens, then the hidden ones: mask tokens with their positions.
    fn input(&self, encoded: &Encoded, mask: &Mask) -> Result<Tensor> {
        let known = self.embed.forward(&encoded.tokens)?;
        let ids = mask.ids_masked(known.device())?;
        let (rows, hidden) = ids.dims2()?;
        let shape = (rows, hidden, self.mask_token.dim(2)?);
        let mut unknown = self.mask_token.broadcast_as(shape)?;
        if let Some(table) = &self.pos_embed {
            unknown = (unknown + table.select(mask, &ids)?)?;
        }
        Ok(Tensor::cat(&[&known, &unknown], 1)?)
    }

    fn predict(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = self.norm.forward(xs)?;
        match &self.head {
            Head::Pixels(head) => head.forward(&xs),
            Head::Values(head) => head.forward(&xs),
        }
    }
}

impl Decoder for InjectDecoder {
    fn layers(&self) -> &[usize] {
        &self.layer
    }

    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        let DecodeContext {
            encoded,
            mask,
            step,
            ..
        } = *cx;
        let injected = encoded.layer(self.layer[0])?;
        step.trace("injected", || Ok(injected.clone()))?;
        cx.needs_visible("an injecting decoder")?;
        let xs = self.input(encoded, mask)?;
        let (prefix, width) = (encoded.prefix, mask.width());
        step.trace("decoder_in", || {
            let patches = in_image_order(&xs.narrow(1, prefix, width)?, mask)?;
            Ok(Tensor::cat(&[&xs.narrow(1, 0, prefix)?, &patches], 1)?)
        })?;
        // With a trace, predict all patches; otherwise only the hidden ones.
        let first = match step.trace {
            Some(_) => prefix,
            None => encoded.tokens.dim(1)?,
        };
        let xs = CrossBlock::run(&self.blocks, xs, first, injected)?;
        let values = self.predict(&xs)?;
        let (values, rows) = match step.trace {
            Some(_) => (in_image_order(&values, mask)?, Rows::Patches),
            None => (values, Rows::Masked),
        };
        Ok(Prediction {
            values,
            rows,
            grid: mask.grid(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::PosEmbedKind;
    use crate::{Batch, ParamStore, PatchGrid, StepContext, TraceSink, View};
    use candle_core::{DType, Device};
    use std::sync::Arc;

    const GRID: PatchGrid = PatchGrid { rows: 1, cols: 4 };

    fn tiny() -> InjectDecoderConfig {
        InjectDecoderConfig {
            embed_dim: 8,
            depth: 1,
            num_heads: 3,
            layer: Some(0),
            ..InjectDecoderConfig::default()
        }
    }

    fn decoder(config: &InjectDecoderConfig) -> Result<InjectDecoder> {
        let params = ParamStore::cpu(0).root();
        let pos_embed = PosEmbed::new(
            &params,
            "decoder_pos_embed",
            PosEmbedKind::SincosRowFirst,
            8,
            (GRID, 1),
        )?;
        InjectDecoder::new(&params, config, (4, 2), pos_embed, InjectOutput::Values(3))
    }

    fn encoded(tokens: usize) -> Encoded {
        let xs = Tensor::arange(0f32, (tokens * 4) as f32, &Device::Cpu).unwrap();
        let xs = (xs / 7.).unwrap().reshape((1, tokens, 4)).unwrap();
        Encoded {
            tokens: xs.sin().unwrap(),
            prefix: 1,
            layers: vec![(0, xs)],
            cls_attention: None,
            grid: GRID,
        }
    }

    struct NoTrace;

    impl TraceSink for NoTrace {
        fn record(&self, _name: &str, _value: &Tensor) -> Result<()> {
            Ok(())
        }
    }

    fn decode(encoded: &Encoded, traced: bool) -> Result<Prediction> {
        let mask = Mask::new(GRID, vec![2, 0, 3, 1], vec![2]).unwrap();
        let pixels = Tensor::zeros((1, 3, 1, 4), DType::F32, &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels, vec![]).unwrap());
        let mut step = StepContext::new(0);
        if traced {
            step.trace = Some(Arc::new(NoTrace));
        }
        decoder(&tiny()).unwrap().decode(&DecodeContext {
            encoded,
            mask: &mask,
            batch: &batch,
            step: &step,
        })
    }

    #[test]
    fn hidden_patches_alone_match_the_whole_image() {
        let [hidden, whole] = [false, true].map(|traced| decode(&encoded(3), traced).unwrap());
        assert_eq!((hidden.rows, whole.rows), (Rows::Masked, Rows::Patches));
        let rows = |prediction: &Prediction| prediction.values.squeeze(0).unwrap().to_vec2::<f32>();
        let (hidden, whole) = (rows(&hidden).unwrap(), rows(&whole).unwrap());
        assert_eq!(hidden, [whole[3].clone(), whole[1].clone()]);
    }

    #[test]
    fn refuses_a_full_view_and_a_missing_layer() {
        let error = decode(&encoded(5), false).unwrap_err().to_string();
        assert!(error.contains("MaskMode::Drop"), "{error}");
        let silent = Encoded {
            layers: vec![],
            ..encoded(3)
        };
        assert!(decode(&silent, false).is_err());
    }

    #[test]
    fn the_default_layer_is_the_last_and_invalid_settings_are_named() {
        let last = InjectDecoderConfig {
            layer: None,
            ..tiny()
        };
        assert_eq!(decoder(&last).unwrap().layers(), [1]);
        type Wrong = (&'static str, fn(&mut InjectDecoderConfig));
        let wrong: [Wrong; 5] = [
            ("`layer` is 2", |c| c.layer = Some(2)),
            ("`num_heads` is 0", |c| c.num_heads = 0),
            ("`num_heads` is 9", |c| c.num_heads = 9),
            ("`norm_eps` is 0", |c| c.norm_eps = 0.),
            ("`mlp_ratio` is NaN", |c| c.mlp_ratio = f64::NAN),
        ];
        for (what, spoil) in wrong {
            let mut config = tiny();
            spoil(&mut config);
            let error = decoder(&config).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
