//! CrossMAE's decoder: hidden patches attend to the encoder's tokens, independently of each other.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{DecoderSettings, DecoderShape, TokensNeeded};
use crate::nn::{CrossBlock, CrossBlockConfig, LayerNorm, Linear, PosEmbed, PosEmbedKind};
use crate::params::Params;
use crate::parts::Part;
use crate::{DecodeContext, Decoder, EncodeOptions, Error, Prediction, Result, Rows};

const NAME: &str = "cross decoder";

/// Settings of [`CrossDecoder`]; `Default` is CrossMAE's with ViT-B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossDecoderConfig {
    /// Width of the tokens; a multiple of `num_heads` and of 4. Default 512.
    pub embed_dim: usize,
    /// Number of blocks. Default 12.
    pub depth: usize,
    /// Attention heads. Default 16.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of `embed_dim`. Default 4.
    pub mlp_ratio: f64,
    /// Epsilon of all norms. Default 1e-6.
    pub norm_eps: f64,
    /// Blocks of the encoder, from 0, whose tokens are read, before the final norm. Default: 0 to 11.
    pub layers: Vec<usize>,
    /// Whether the input of the first block is read, too; a plain ViT provides it. Default true.
    pub input: bool,
    /// Whether hidden patches attend to each other before they attend to the encoder's tokens. Default false.
    pub self_attention: bool,
}

impl Default for CrossDecoderConfig {
    fn default() -> Self {
        Self {
            embed_dim: 512,
            depth: 12,
            num_heads: 16,
            mlp_ratio: 4.,
            norm_eps: 1e-6,
            layers: (0..12).collect(),
            input: true,
            self_attention: false,
        }
    }
}

impl CrossDecoderConfig {
    fn check(&self) -> Result<()> {
        let dim = self.embed_dim;
        let bad = |field: &'static str, value: String, why: String, fix: &'static str| {
            Err(Error::config(NAME, field, value, why, fix))
        };
        if self.num_heads == 0 || !dim.is_multiple_of(self.num_heads) {
            let why = format!("embed_dim = {dim} must be a multiple of it");
            let fix = "change decoder.num_heads or decoder.embed_dim";
            return bad("num_heads", self.num_heads.to_string(), why, fix);
        }
        if self.depth == 0 {
            let why = "it needs at least one block".to_owned();
            return bad("depth", "0".to_owned(), why, "use 1 or more");
        }
        if self.norm_eps.is_nan() || self.norm_eps <= 0. {
            let why = "it must be positive".to_owned();
            return bad("norm_eps", self.norm_eps.to_string(), why, "use 1e-6");
        }
        let mut layers = self.layers.clone();
        layers.sort_unstable();
        layers.dedup();
        if layers.len() != self.layers.len() || (layers.is_empty() && !self.input) {
            let why =
                "it must list different blocks of the encoder, at least one unless input = true"
                    .to_owned();
            let fix = "list different blocks, such as [0, 1, 2, 3]";
            return bad("layers", format!("{:?}", self.layers), why, fix);
        }
        Ok(())
    }
}

impl Part for CrossDecoderConfig {
    const ABOUT: &'static str =
        "hidden patches from mixtures of all blocks' tokens, by cross-attention alone";
    const PAPER: &'static str =
        "CrossMAE: Fu et al., TMLR 2025, arXiv 2401.14391; TonyLianLong/CrossMAE @ ed0677a";
    const SMALL: &'static str = r#"
embed_dim = 64
depth = 2
num_heads = 4
layers = [0, 1, 2, 3]
"#;
}

impl DecoderSettings for CrossDecoderConfig {
    fn tokens(&self) -> TokensNeeded {
        TokensNeeded::Visible
    }

    fn build(&self, params: &Params, shape: DecoderShape) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(CrossDecoder::new(params, self, shape)?))
    }
}

/// Predicts hidden patches from the encoder's tokens: each block attends to a trained mixture of the outputs of all
/// encoder blocks (CrossMAE, Fu et al., TMLR 2025, section 3).
///
/// Without self-attention, a patch does not depend on which others are predicted. The prediction always covers only
/// hidden patches, in the mask's order. The class token is read but not predicted.
#[derive(Debug, Clone)]
pub struct CrossDecoder {
    /// What is read: the input of the first block, then blocks in ascending order.
    reads: Vec<usize>,
    mixture: Tensor,
    context_norms: Vec<LayerNorm>,
    mask_token: Tensor,
    pos_embed: PosEmbed,
    blocks: Vec<CrossBlock>,
    norm: LayerNorm,
    pred: Linear,
}

impl CrossDecoder {
    /// Parameters `mask_token`, `decoder_pos_embed`, `wfm.linear.weight`, `dec_norms.N`, `decoder_blocks.N`,
    /// `decoder_norm`, `decoder_pred`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &CrossDecoderConfig, shape: DecoderShape) -> Result<Self> {
        config.check()?;
        let (dim, depth) = (config.embed_dim, config.depth);
        let mut layers = config.layers.clone();
        layers.sort_unstable();
        let input = config.input.then_some(EncodeOptions::INPUT);
        let reads: Vec<usize> = input.into_iter().chain(layers).collect();
        let block = CrossBlockConfig {
            dim,
            context_dim: shape.inputs,
            num_heads: config.num_heads,
            mlp_ratio: config.mlp_ratio,
            norm_eps: config.norm_eps,
        };
        let norm = |params: &Params, dim: usize| LayerNorm::new(params, dim, config.norm_eps);
        let (norms, blocks) = (params.pp("dec_norms"), params.pp("decoder_blocks"));
        let (kind, name) = (PosEmbedKind::Sincos, "decoder_pos_embed");
        let pos_embed = PosEmbed::new(params, name, kind, dim, (shape.grid, 1))?;
        Ok(Self {
            mask_token: params.weight(&[1, 1, dim], "mask_token")?,
            pos_embed: pos_embed.ok_or_else(|| {
                Error::unsupported(NAME, "it has no positions", "report this as a bug")
            })?,
            mixture: params
                .pp("wfm")
                .pp("linear")
                .weight(&[depth, reads.len()], "weight")?,
            reads,
            context_norms: (0..depth)
                .map(|index| norm(&norms.pp(index), shape.inputs))
                .collect::<Result<_>>()?,
            blocks: (0..depth)
                .map(|index| {
                    CrossBlock::of_queries(&blocks.pp(index), &block, config.self_attention)
                })
                .collect::<Result<_>>()?,
            norm: norm(&params.pp("decoder_norm"), dim)?,
            pred: Linear::new(&params.pp("decoder_pred"), dim, shape.outputs)?,
        })
    }

    /// The input mixture of each block, before its norm, `[rows, prefix + visible, inputs]`.
    fn mixtures(&self, cx: &DecodeContext<'_>) -> Result<Vec<Tensor>> {
        let tokens = self.reads.iter().map(|index| cx.encoded.layer(*index));
        let tokens = tokens.collect::<Result<Vec<_>>>()?;
        cx.step
            .trace("features", || Ok(Tensor::stack(&tokens, 3)?))?;
        let shape = tokens.first().map(|first| first.shape().clone());
        let shape = shape
            .ok_or_else(|| Error::unsupported(NAME, "it reads no blocks", "set decoder.layers"))?;
        let flat = Tensor::stack(&tokens, 0)?.flatten_from(1)?;
        let mixed = self.mixture.matmul(&flat)?;
        let one = |index: usize| Ok(mixed.narrow(0, index, 1)?.reshape(&shape)?);
        let all = (0..self.blocks.len())
            .map(one)
            .collect::<Result<Vec<_>>>()?;
        cx.step.trace("weighted", || Ok(Tensor::stack(&all, 3)?))?;
        Ok(all)
    }
}

impl Decoder for CrossDecoder {
    fn layers(&self) -> &[usize] {
        &self.reads
    }

    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        cx.needs_visible("a cross decoder")?;
        let ids = cx.mask.ids_masked(cx.encoded.tokens.device())?;
        let positions = self.pos_embed.select(cx.mask, &ids)?;
        let mut xs = positions.broadcast_add(&self.mask_token)?;
        cx.step.trace("queries", || Ok(xs.clone()))?;
        let contexts = self.mixtures(cx)?;
        let norms = self.context_norms.iter();
        for (index, (block, (norm, context))) in
            self.blocks.iter().zip(norms.zip(&contexts)).enumerate()
        {
            xs = block.forward(&xs, &norm.forward(context)?)?;
            if cx.step.trace.is_some() {
                cx.step
                    .trace(&format!("decoder{index}"), || Ok(xs.clone()))?;
            }
        }
        Ok(Prediction {
            values: self.pred.forward(&self.norm.forward(&xs)?)?,
            rows: Rows::Masked,
            grid: cx.mask.grid(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders::{Vit, VitConfig};
    use crate::{Batch, Encoder, Mask, Masking, ParamStore, PatchGrid, StepContext, View};
    use candle_core::Device;

    fn config() -> CrossDecoderConfig {
        CrossDecoderConfig {
            embed_dim: 8,
            depth: 2,
            num_heads: 2,
            layers: vec![1, 0],
            ..CrossDecoderConfig::default()
        }
    }

    /// Predictions for the hidden patches of a mask, and whether every parameter of `store` got a gradient.
    fn predict(config: &CrossDecoderConfig, mask: &Mask) -> Result<(Vec<Vec<f32>>, bool)> {
        let store = ParamStore::cpu(3);
        let vit = VitConfig {
            image_size: 8.into(),
            patch_size: 4,
            embed_dim: 8,
            depth: 2,
            num_heads: 2,
            final_norm: false,
            ..VitConfig::default()
        };
        let encoder = Vit::new(&store.root(), &vit)?;
        let shape = DecoderShape::new(mask.grid(), 8, 3);
        let decoder = CrossDecoder::new(&store.root(), config, shape)?;
        let pixels = Tensor::arange(0f32, 192., &Device::Cpu)?.reshape((1, 3, 8, 8))?;
        let pixels = pixels.sin()?;
        let batch = Batch::single(View::new(pixels.clone(), vec![])?);
        let (step, layers) = (StepContext::new(0), decoder.layers().to_vec());
        let want = EncodeOptions {
            layers,
            ..EncodeOptions::default()
        };
        let encoded = encoder.encode(&pixels, Masking::Drop(mask), &want, &step)?;
        let values = decoder
            .decode(&DecodeContext {
                encoded: &encoded,
                mask,
                batch: &batch,
                step: &step,
            })?
            .values;
        let grads = values.sqr()?.sum_all()?.backward()?;
        let all = store.trainable();
        let arrive = all.iter().all(|(_, var)| grads.get(var).is_some());
        Ok((values.squeeze(0)?.to_vec2()?, arrive))
    }

    #[test]
    fn patches_are_independent_and_gradients_arrive() {
        let grid = PatchGrid::new(2, 2);
        let both = Mask::new(grid, vec![2, 0, 3], vec![1]).unwrap();
        let one = Mask::new(grid, vec![2, 3], vec![1]).unwrap();
        let (first, arrive) = predict(&config(), &both).unwrap();
        assert!(arrive);
        let (second, _) = predict(&config(), &one).unwrap();
        let apart = |a: &[f32], b: &[f32]| {
            let pairs = a.iter().zip(b);
            pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs()))
        };
        assert!(apart(&first[1], &second[0]) < 1e-6);
        let looking = CrossDecoderConfig {
            self_attention: true,
            ..config()
        };
        let (first, arrive) = predict(&looking, &both).unwrap();
        let (second, _) = predict(&looking, &one).unwrap();
        assert!(arrive && apart(&first[1], &second[0]) > 1e-4);
    }

    #[test]
    fn invalid_settings_and_missing_blocks_are_named() {
        type Wrong = (&'static str, fn(&mut CrossDecoderConfig));
        let wrong: [Wrong; 6] = [
            ("`num_heads` is 3", |c| c.num_heads = 3),
            ("`depth` is 0", |c| c.depth = 0),
            ("`layers` is [0, 0]", |c| c.layers = vec![0, 0]),
            ("`layers` is []", |c| (c.layers, c.input) = (vec![], false)),
            ("`norm_eps` is 0", |c| c.norm_eps = 0.),
            ("reading block 2", |c| c.layers = vec![2]),
        ];
        let mask = Mask::new(PatchGrid::new(2, 2), vec![2, 0, 3], vec![1]).unwrap();
        for (what, spoil) in wrong {
            let mut config = config();
            spoil(&mut config);
            let error = predict(&config, &mask).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
