//! FastMIM's decoder: a few blocks over all tokens.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{DecoderSettings, DecoderShape};
use crate::nn::{Block, BlockConfig, LayerNorm, Linear, NormKind, QkvBias};
use crate::ops::PatchOrder;
use crate::params::Params;
use crate::parts::Part;
use crate::{DecodeContext, Decoder, Error, Prediction, Result, Rows, StepContext};

/// Settings of [`LightDecoder`]; `Default` is FastMIM's for ViT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LightDecoderConfig {
    /// Width of the tokens; a multiple of the heads. Without blocks, the encoder's width is used. Default 256.
    pub embed_dim: usize,
    /// Number of blocks; 0 also omits `decoder_embed`. Default 1.
    pub depth: usize,
    /// Attention heads. Default: one per 32 values of a token, at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_heads: Option<usize>,
    /// Hidden width of a block's MLP as a multiple of `embed_dim`. Default 4.
    pub mlp_ratio: f64,
    /// Epsilon of all norms. Default 1e-6; the authors use 1e-5 with Swin and PVTv2.
    pub norm_eps: f64,
}

impl Default for LightDecoderConfig {
    fn default() -> Self {
        Self {
            embed_dim: 256,
            depth: 1,
            num_heads: None,
            mlp_ratio: 4.,
            norm_eps: 1e-6,
        }
    }
}

impl LightDecoderConfig {
    fn block(&self, dim: usize) -> BlockConfig {
        BlockConfig {
            dim,
            num_heads: self.num_heads.unwrap_or((dim / 32).max(1)),
            mlp_ratio: self.mlp_ratio,
            qkv_bias: QkvBias::Full,
            norm: NormKind::LayerNorm,
            norm_eps: self.norm_eps,
            layer_scale_init: None,
            drop_path: 0.,
        }
    }
}

impl Part for LightDecoderConfig {
    const ABOUT: &'static str = "all patches from all tokens, by a few blocks";
    const PAPER: &'static str =
        "FastMIM: Guo et al., 2022, arXiv 2212.06593; ggjy/FastMIM.pytorch @ d4eea0d";
    const SMALL: &'static str = r#"
embed_dim = 64
depth = 1
"#;
}

impl DecoderSettings for LightDecoderConfig {
    fn build(&self, params: &Params, shape: DecoderShape) -> Result<Box<dyn Decoder>> {
        let decoder = LightDecoder::new(params, self, shape.inputs, shape.outputs)?;
        Ok(Box::new(match shape.cells {
            Some((order, channels)) => decoder.cells(order, channels),
            None => decoder,
        }))
    }
}

/// Predicts all patches from all tokens. It has no mask tokens and no positions; a class
/// token passes through the blocks, too.
///
/// FastMIM (Guo et al., arXiv 2212.06593); ggjy/FastMIM.pytorch @ d4eea0d, `mim_vit_pretrain.py`.
#[derive(Debug, Clone)]
pub struct LightDecoder {
    embed: Option<Linear>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    pred: Linear,
    cells: Option<(PatchOrder, usize)>,
}

impl LightDecoder {
    /// Parameters `decoder_embed`, `decoder_blocks.N`, `decoder_norm`, `decoder_pred`; `inputs` is the
    /// encoder's width, `outputs` the values per token.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(
        params: &Params,
        config: &LightDecoderConfig,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        let dim = match config.depth {
            0 => inputs,
            _ => config.embed_dim,
        };
        let block = config.block(dim);
        block.validate("decoder")?;
        let (blocks, embed) = (params.pp("decoder_blocks"), params.pp("decoder_embed"));
        Ok(Self {
            embed: (config.depth > 0)
                .then(|| Linear::new(&embed, inputs, dim))
                .transpose()?,
            blocks: (0..config.depth)
                .map(|index| Block::new(&blocks.pp(index), &block, 0))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(&params.pp("decoder_norm"), dim, config.norm_eps)?,
            pred: Linear::new(&params.pp("decoder_pred"), dim, outputs)?,
            cells: None,
        })
    }

    /// Declares that the outputs are the cells of a patch (pixels or histograms), in this order and with
    /// this many channels.
    ///
    /// Then, under a mask finer than the encoder's output, the prediction is split into the mask's cells.
    #[must_use]
    pub fn cells(mut self, order: PatchOrder, channels: usize) -> Self {
        self.cells = Some((order, channels));
        self
    }

    fn tokens(&self, encoded: &Tensor, step: &StepContext) -> Result<Tensor> {
        let mut xs = match &self.embed {
            Some(embed) => embed.forward(encoded)?,
            None => encoded.clone(),
        };
        for block in &self.blocks {
            xs = block.forward(&xs, None, step)?;
        }
        self.norm.forward(&xs)
    }
}

impl Decoder for LightDecoder {
    /// Traces the prediction on the encoder's grid as `tokens`.
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        let (encoded, finer) = (cx.encoded, cx.mask.grid());
        let grid = encoded.grid;
        cx.needs_all("a light decoder")?;
        let tokens = self.tokens(&encoded.tokens, cx.step)?;
        let patches = tokens.narrow(1, encoded.prefix, grid.len())?;
        let whole = Prediction {
            values: self.pred.forward(&patches)?,
            rows: Rows::Patches,
            grid,
        };
        cx.step.trace("tokens", || Ok(whole.values.clone()))?;
        match self.cells {
            _ if grid == finer => Ok(whole),
            Some((order, channels)) => whole.regroup(finer, order, channels),
            None => Err(Error::unsupported(
                format!("a prediction on the grid {grid} under a mask on {finer}"),
                "its values are not declared as cells",
                "draw masks on the encoder's grid, or call LightDecoder::cells",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Encoded, Mask, ParamStore, PatchGrid, View};
    use candle_core::{DType, Device};

    fn build(config: &LightDecoderConfig) -> Result<(ParamStore, LightDecoder)> {
        let store = ParamStore::cpu(0);
        let decoder = LightDecoder::new(&store.root(), config, 8, 12)?;
        Ok((store, decoder))
    }

    /// A class token and two patches; `last` is added to the last one.
    fn encoded(last: f32) -> Encoded {
        let tokens = Tensor::arange(0f32, 24., &Device::Cpu).unwrap();
        let tokens = tokens.sin().unwrap().reshape((1, 3, 8)).unwrap();
        let shift = Tensor::new(&[0f32, 0., last], &Device::Cpu).unwrap();
        // Not a constant, which a norm would remove.
        let slope = Tensor::arange(0f32, 8., &Device::Cpu).unwrap();
        let shift = shift.reshape((1, 3, 1)).unwrap();
        let shift = shift.broadcast_mul(&slope.reshape((1, 1, 8)).unwrap());
        Encoded {
            tokens: (tokens + shift.unwrap()).unwrap(),
            prefix: 1,
            layers: vec![],
            cls_attention: None,
            grid: PatchGrid::new(1, 2),
        }
    }

    fn decode(decoder: &LightDecoder, encoded: &Encoded, grid: PatchGrid) -> Result<Prediction> {
        let pixels = Tensor::zeros((1, 3, 4, 8), DType::F32, &Device::Cpu).unwrap();
        let bits: Vec<u8> = (0..grid.len()).map(|id| u8::from(id == 1)).collect();
        decoder.decode(&DecodeContext {
            encoded,
            mask: &Mask::from_bits(grid, &bits).unwrap(),
            batch: &Batch::single(View::new(pixels, vec![]).unwrap()),
            step: &StepContext::new(0),
        })
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn all_patches_are_predicted_and_tokens_attend_to_each_other() {
        let config = LightDecoderConfig {
            embed_dim: 16,
            ..LightDecoderConfig::default()
        };
        let (store, decoder) = build(&config).unwrap();
        let predict = |last: f32| {
            let encoded = encoded(last);
            decode(&decoder, &encoded, encoded.grid).unwrap()
        };
        let prediction = predict(0.);
        assert_eq!(prediction.values.dims(), [1, 2, 12]);
        assert_eq!(prediction.rows, Rows::Patches);
        let changed = predict(3.);
        assert_ne!(
            values(&prediction.values)[..12],
            values(&changed.values)[..12]
        );
        let names: Vec<String> = store.names().into_iter().map(|(name, _)| name).collect();
        assert!(
            names
                .iter()
                .any(|name| name == "decoder_blocks.0.attn.qkv.bias")
        );
    }

    #[test]
    fn without_blocks_the_tokens_are_normalised_and_mapped() {
        let config = LightDecoderConfig {
            depth: 0,
            ..LightDecoderConfig::default()
        };
        let (store, decoder) = build(&config).unwrap();
        let names: Vec<String> = store.names().into_iter().map(|(name, _)| name).collect();
        let known = |name: &String| name.contains("_norm.") || name.contains("_pred.");
        assert!(names.len() == 4 && names.iter().all(known), "{names:?}");
        let (first, changed) = (encoded(0.), encoded(3.));
        let predict = |encoded| values(&decode(&decoder, encoded, first.grid).unwrap().values);
        assert_eq!(predict(&first)[..12], predict(&changed)[..12]);
        assert_ne!(predict(&first)[12..], predict(&changed)[12..]);
    }

    #[test]
    fn a_finer_mask_splits_known_cells_only() {
        let (_, decoder) = build(&LightDecoderConfig {
            embed_dim: 16,
            ..LightDecoderConfig::default()
        })
        .unwrap();
        let finer = PatchGrid::new(2, 4);
        let error = decode(&decoder, &encoded(0.), finer).unwrap_err();
        assert!(error.to_string().contains("LightDecoder::cells"), "{error}");
        let coarse = decode(&decoder, &encoded(0.), PatchGrid::new(1, 2)).unwrap();
        // Three bins in 2x2 cells per patch, bins first: cell (0, 1) of patch 0 is value 1 of each group of four.
        let decoder = decoder.cells(PatchOrder::ChannelsThenPixels, 3);
        let cells = decode(&decoder, &encoded(0.), finer).unwrap();
        assert_eq!((cells.grid, cells.values.dims()), (finer, &[1, 8, 3][..]));
        let (coarse, cells) = (values(&coarse.values), values(&cells.values));
        assert_eq!(cells[3..6], [coarse[1], coarse[5], coarse[9]]);
    }

    #[test]
    fn heads_are_32_wide_by_default() {
        let config = LightDecoderConfig::default();
        assert_eq!(config.block(256).num_heads, 8);
        assert_eq!(config.block(16).num_heads, 1);
        let error = build(&LightDecoderConfig {
            num_heads: Some(3),
            ..config
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("decoder.num_heads"), "{error}");
    }
}
