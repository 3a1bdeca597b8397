//! I-JEPA's predictor: a narrow transformer over visible tokens and mask tokens.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{DecoderSettings, DecoderShape, TokensNeeded};
use crate::nn::{Block, BlockConfig, LayerNorm, Linear, NormKind, PosEmbed, PosEmbedKind, QkvBias};
use crate::params::Params;
use crate::parts::Part;
use crate::{DecodeContext, Decoder, Error, Prediction, Result, Rows};

const NAME: &str = "predictor";

/// Settings of [`Predictor`]; `Default` is I-JEPA's with ViT-H.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PredictorConfig {
    /// Width of the tokens; a multiple of `num_heads` and of 4. Default 384.
    pub embed_dim: usize,
    /// Number of blocks. Default 12.
    pub depth: usize,
    /// Attention heads. Default 16.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of `embed_dim`. Default 4.
    pub mlp_ratio: f64,
    /// Epsilon of all norms. Default 1e-6.
    pub norm_eps: f64,
}

impl Default for PredictorConfig {
    fn default() -> Self {
        Self {
            embed_dim: 384,
            depth: 12,
            num_heads: 16,
            mlp_ratio: 4.,
            norm_eps: 1e-6,
        }
    }
}

impl Part for PredictorConfig {
    const ABOUT: &'static str = "hidden patches from the visible ones, by a narrow transformer";
    const PAPER: &'static str =
        "I-JEPA: Assran et al., CVPR 2023, arXiv 2301.08243; facebookresearch/ijepa @ 52c1ae9";
    const SMALL: &'static str = r#"
embed_dim = 64
depth = 2
num_heads = 4
"#;
}

impl DecoderSettings for PredictorConfig {
    fn tokens(&self) -> TokensNeeded {
        TokensNeeded::Visible
    }

    fn build(&self, params: &Params, shape: DecoderShape) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(Predictor::new(params, self, shape)?))
    }
}

/// Predicts hidden patches from the visible ones and the positions (Assran et al., CVPR 2023, section 3).
///
/// The prediction always covers only hidden patches, in the mask's order. Hidden patches attend to each other, so each
/// block is predicted separately if it has its own mask. Class tokens take part without a position.
#[derive(Debug, Clone)]
pub struct Predictor {
    embed: Linear,
    mask_token: Tensor,
    pos_embed: PosEmbed,
    blocks: Vec<Block>,
    norm: LayerNorm,
    proj: Linear,
}

impl Predictor {
    /// Parameters `embed`, `mask_token`, `pos_embed`, `blocks.N`, `norm`, `proj`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &PredictorConfig, shape: DecoderShape) -> Result<Self> {
        let dim = config.embed_dim;
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
        block.validate(NAME)?;
        let blocks = params.pp("blocks");
        let kind = PosEmbedKind::Sincos;
        let pos_embed = PosEmbed::new(params, "pos_embed", kind, dim, (shape.grid, 0))?;
        Ok(Self {
            embed: Linear::new(&params.pp("embed"), shape.inputs, dim)?,
            mask_token: params.weight(&[1, 1, dim], "mask_token")?,
            pos_embed: pos_embed.ok_or_else(|| {
                Error::unsupported(NAME, "it has no positions", "report this as a bug")
            })?,
            blocks: (0..config.depth)
                .map(|index| Block::new(&blocks.pp(index), &block, 0))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(&params.pp("norm"), dim, config.norm_eps)?,
            proj: Linear::new(&params.pp("proj"), dim, shape.outputs)?,
        })
    }
}

impl Decoder for Predictor {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        cx.needs_visible("a predictor")?;
        let (tokens, prefix) = (&cx.encoded.tokens, cx.encoded.prefix);
        let device = tokens.device();
        let place = |ids: &Tensor| self.pos_embed.select(cx.mask, ids);
        let known = self.embed.forward(tokens)?;
        let first = known.dim(1)?;
        let visible = known.narrow(1, prefix, first - prefix)?;
        let visible = (visible + place(&cx.mask.ids_keep(device)?)?)?;
        let hidden = place(&cx.mask.ids_masked(device)?)?.broadcast_add(&self.mask_token)?;
        let xs = match prefix {
            0 => Tensor::cat(&[visible, hidden], 1)?,
            _ => Tensor::cat(&[known.narrow(1, 0, prefix)?, visible, hidden], 1)?,
        };
        let xs = Block::run(&self.blocks, xs, first, cx.step)?;
        Ok(Prediction {
            values: self.proj.forward(&self.norm.forward(&xs)?)?,
            rows: Rows::Masked,
            grid: cx.mask.grid(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Encoded, Mask, ParamStore, PatchGrid, StepContext, View};
    use candle_core::{DType, Device};

    #[test]
    fn blocks_are_predicted_separately_and_gradients_arrive() {
        let store = ParamStore::cpu(1);
        let config = PredictorConfig {
            embed_dim: 8,
            depth: 1,
            num_heads: 2,
            ..PredictorConfig::default()
        };
        let grid = PatchGrid::new(2, 2);
        let shape = DecoderShape::new(grid, 6, 3);
        let predictor = Predictor::new(&store.root(), &config, shape).unwrap();
        let pixels = Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels, vec![]).unwrap());
        let predict = |order: Vec<u32>, rows: usize| {
            let mask = Mask::new(grid, order, vec![2; rows]).unwrap();
            let tokens = Tensor::arange(0f32, 12., &Device::Cpu)
                .unwrap()
                .sin()
                .unwrap();
            let tokens = tokens.reshape((1, 2, 6)).unwrap();
            let encoded = Encoded {
                tokens: Tensor::cat(&vec![&tokens; rows], 0).unwrap(),
                prefix: 0,
                layers: vec![],
                cls_attention: None,
                grid,
            };
            let step = StepContext::new(0);
            let cx = DecodeContext {
                encoded: &encoded,
                mask: &mask,
                batch: &batch,
                step: &step,
            };
            predictor.decode(&cx).unwrap().values
        };
        let both = predict(vec![0, 1, 2, 0, 1, 3], 2);
        let rows = |xs: &Tensor| -> Vec<Vec<f32>> { xs.flatten(0, 1).unwrap().to_vec2().unwrap() };
        assert_eq!(rows(&both)[1], rows(&predict(vec![0, 1, 3], 1))[0]);
        let grads = both.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (name, var) in store.trainable() {
            assert!(grads.get(&var).is_some(), "{name}");
        }
    }
}
