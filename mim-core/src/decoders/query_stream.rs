//! The query stream: autoregressive prediction of patches.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::encoders::{RelPosBiasKind, VitConfig};
use crate::nn::{Block, LayerNorm, Linear, Mlp, PosEmbed, causal_bias};
use crate::params::Params;
use crate::{DecodeContext, Decoder, Error, Prediction, Result, Rows};

/// The head after the last norm of a [`QueryStream`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryHead {
    /// Two layers with GELU between them; the hidden width is that of a block's MLP.
    #[default]
    Mlp,
    /// One layer.
    Linear,
}

/// Settings of [`QueryStream`]; `Default` is SAIM's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryStreamConfig {
    /// Number of blocks, a divisor of the encoder's depth; `None` (the default) for the encoder's depth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// Whether it shares the first blocks of the encoder. Default false.
    pub share_weights: bool,
    /// The prediction head. Default `mlp`.
    pub head: QueryHead,
}

/// Predicts every patch, in the mask's order, from its position and the encoder's tokens of earlier patches: the
/// query stream of XLNet (Yang et al., NeurIPS 2019) for images.
///
/// It starts from the encoder's position table. At regular intervals of encoder blocks, one of its own blocks attends
/// to that block's output for the class token and earlier patches. Its last norm is the encoder's `norm`, which
/// pre-training uses for nothing else. Traces `query{N}`, its tokens after block N, and `pred` with the row of the
/// class token, both `[rows, 1 + patches, ..]`.
///
/// SAIM (Qi et al., AAAI 2023), section 3.3; qiy20/SAIM @ 08d36c3, `models_saim.py`.
#[derive(Debug, Clone)]
pub struct QueryStream {
    pos_embed: PosEmbed,
    blocks: Vec<Block>,
    /// For each of its blocks, the encoder block whose output it reads.
    layers: Vec<usize>,
    norm: LayerNorm,
    head: Head,
}

#[derive(Debug, Clone)]
enum Head {
    Mlp(Linear, Linear),
    Linear(Linear),
}

impl Head {
    fn new(
        params: &Params,
        kind: QueryHead,
        (dim, hidden, outputs): (usize, usize, usize),
    ) -> Result<Self> {
        Ok(match kind {
            QueryHead::Linear => Self::Linear(Linear::new(params, dim, outputs)?),
            QueryHead::Mlp => Self::Mlp(
                Linear::new(&params.pp("fc1"), dim, hidden)?,
                Linear::new(&params.pp("fc2"), hidden, outputs)?,
            ),
        })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Linear(pred) => pred.forward(xs),
            Self::Mlp(fc1, fc2) => fc2.forward(&fc1.forward_gelu(xs)?),
        }
    }
}

impl QueryStream {
    /// Builds the stream for the encoder `vit`, which was built under the same `params`: parameters `query_blocks.N`
    /// (unless shared with the encoder) and `prediction_head`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if its depth does not divide the encoder's, if the encoder lacks positions, a class
    /// token or a final norm, or if it has a part that the stream does not support.
    pub fn new(
        params: &Params,
        config: &QueryStreamConfig,
        vit: &VitConfig,
        outputs: usize,
    ) -> Result<Self> {
        let depth = config.depth.unwrap_or(vit.depth);
        check(vit, depth)?;
        let (shared, dim, each) = (params.shared(), vit.embed_dim, vit.depth / depth);
        let place = (vit.grid()?, 1);
        let Some(pos_embed) = PosEmbed::new(&shared, "pos_embed", vit.pos_embed, dim, place)?
        else {
            let why = "the query stream starts from positions";
            return Err(unfit("pos_embed", "none".to_owned(), why));
        };
        let block = |index: usize| {
            let params = match config.share_weights {
                true => shared.pp("blocks"),
                false => params.pp("query_blocks"),
            };
            // Random streams of stochastic depth after those of the encoder's blocks.
            let number = u32::try_from(vit.depth + index).unwrap_or(u32::MAX);
            let block = Block::new(&params.pp(index), &vit.block(index * each), number)?;
            Ok(block.activation(vit.activation))
        };
        let hidden = Mlp::hidden(dim, vit.mlp_ratio);
        Ok(Self {
            pos_embed,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            layers: (1..=depth).map(|index| index * each - 1).collect(),
            norm: LayerNorm::new(&shared.pp("norm"), dim, vit.norm_eps)?,
            head: Head::new(
                &params.pp("prediction_head"),
                config.head,
                (dim, hidden, outputs),
            )?,
        })
    }
}

/// Checks that a query stream of `depth` blocks works with the encoder.
fn check(vit: &VitConfig, depth: usize) -> Result<()> {
    if depth == 0 || !vit.depth.is_multiple_of(depth) {
        let why = format!(
            "its blocks must be evenly spread over the encoder's {}",
            vit.depth
        );
        let fix = "use a divisor of encoder.depth";
        return Err(Error::config("query stream", "depth", depth, why, fix));
    }
    let rules = [
        (
            "class_token",
            vit.class_token,
            vit.class_token.to_string(),
            "the first patch attends only to the class token",
        ),
        (
            "final_norm",
            vit.final_norm,
            vit.final_norm.to_string(),
            "the query stream uses this norm",
        ),
        (
            "rel_pos_bias",
            vit.rel_pos_bias == RelPosBiasKind::None,
            format!("{:?}", vit.rel_pos_bias),
            "the query stream has no position bias",
        ),
        (
            "attn_drop_rate",
            vit.attn_drop_rate == 0.,
            vit.attn_drop_rate.to_string(),
            "the query stream has no attention dropout",
        ),
        (
            "projection_dim",
            vit.projection_dim.is_none(),
            format!("{:?}", vit.projection_dim),
            "the query stream reads the blocks",
        ),
    ];
    match rules.into_iter().find(|(_, holds, ..)| !holds) {
        Some((field, _, value, why)) => Err(unfit(field, value, why)),
        None => Ok(()),
    }
}

fn unfit(field: &'static str, value: String, why: &'static str) -> Error {
    let fix = "change this setting of the encoder";
    Error::config("encoder", field, value, why, fix)
}

impl Decoder for QueryStream {
    fn layers(&self) -> &[usize] {
        &self.layers
    }

    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        cx.needs_all("a query stream")?;
        let (encoded, step) = (cx.encoded, cx.step);
        let bias = causal_bias(cx.mask, encoded.prefix, false, encoded.tokens.device())?;
        let patches = self.pos_embed.patches(encoded.grid)?;
        let start = Tensor::cat(&[&self.pos_embed.prefix()?, &patches], 1)?;
        let mut xs = start.broadcast_as(encoded.tokens.shape())?.contiguous()?;
        for (index, (block, layer)) in self.blocks.iter().zip(&self.layers).enumerate() {
            xs = block.forward_to(&xs, encoded.layer(*layer)?, Some(&bias), step)?;
            if step.trace.is_some() {
                step.trace(&format!("query{index}"), || Ok(xs.clone()))?;
            }
        }
        let values = self.head.forward(&self.norm.forward(&xs)?)?;
        step.trace("pred", || Ok(values.clone()))?;
        let (prefix, all) = (encoded.prefix, values.dim(1)?);
        Ok(Prediction {
            values: values.narrow(1, prefix, all - prefix)?,
            rows: Rows::Patches,
            grid: encoded.grid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders::Vit;
    use crate::objectives::testing::noise;
    use crate::{Batch, EncodeOptions, Encoder, Mask, Masking, ParamStore, StepContext, View};
    use candle_core::Device;

    fn vit() -> VitConfig {
        VitConfig {
            image_size: 8.into(),
            patch_size: 4,
            embed_dim: 8,
            depth: 2,
            num_heads: 2,
            ..VitConfig::default()
        }
    }

    fn predict(
        store: &ParamStore,
        config: &QueryStreamConfig,
        pixels: &Tensor,
        step: &StepContext,
    ) -> Tensor {
        let root = store.root();
        let encoder = Vit::new(&root.shared(), &vit()).unwrap();
        let stream = QueryStream::new(&root.shared(), config, &vit(), 5).unwrap();
        let mask = Mask::new(vit().grid().unwrap(), vec![2, 0, 3, 1], vec![0]).unwrap();
        let want = EncodeOptions {
            layers: stream.layers().to_vec(),
            ..EncodeOptions::default()
        };
        let encoded = encoder
            .encode(pixels, Masking::Causal(&mask), &want, step)
            .unwrap();
        let batch = Batch::single(View::new(pixels.clone(), vec![]).unwrap());
        let cx = DecodeContext {
            encoded: &encoded,
            mask: &mask,
            batch: &batch,
            step,
        };
        stream.decode(&cx).unwrap().values
    }

    #[test]
    fn patches_depend_only_on_earlier_ones() {
        let (store, step) = (ParamStore::cpu(1), StepContext::new(0));
        let config = QueryStreamConfig::default();
        let pixels = noise(&[1, 3, 8, 8], 1);
        let rows = |pixels: &Tensor| -> Vec<Vec<f32>> {
            let ys = predict(&store, &config, pixels, &step);
            ys.squeeze(0).unwrap().to_vec2().unwrap()
        };
        let before = rows(&pixels);
        // Change pixels of patch 0, at the top left: the second patch in the order 2, 0, 3, 1.
        let corner = noise(&[1, 3, 4, 4], 7).pad_with_zeros(2, 0, 4).unwrap();
        let corner = corner.pad_with_zeros(3, 0, 4).unwrap();
        let after = rows(&(pixels + corner).unwrap());
        let moved: Vec<bool> = before.iter().zip(&after).map(|(a, b)| a != b).collect();
        assert_eq!(moved, [false, true, false, true]);
    }

    #[test]
    fn gradients_arrive_everywhere_and_shared_blocks_add_no_parameters() {
        let pixels = noise(&[1, 3, 8, 8], 1);
        let step = StepContext::new(0);
        let mut counts = vec![];
        for share_weights in [false, true] {
            let store = ParamStore::cpu(2);
            let config = QueryStreamConfig {
                share_weights,
                ..QueryStreamConfig::default()
            };
            let ys = predict(&store, &config, &pixels, &step);
            let gradients = ys.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            for (name, var) in store.trainable() {
                let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name}"));
                assert!(
                    gradient
                        .abs()
                        .unwrap()
                        .sum_all()
                        .unwrap()
                        .to_scalar::<f32>()
                        .unwrap()
                        > 0.
                );
            }
            counts.push(store.trainable().len());
        }
        assert_eq!(counts[0] - counts[1], 2 * 12);
        let device = &Device::Cpu;
        let refused = |config: QueryStreamConfig, vit: VitConfig| {
            let store = ParamStore::teacher(device);
            Vit::new(&store.root(), &vit).unwrap();
            QueryStream::new(&store.root(), &config, &vit, 5)
                .unwrap_err()
                .to_string()
        };
        let three = QueryStreamConfig {
            depth: Some(3),
            ..QueryStreamConfig::default()
        };
        assert!(refused(three, vit()).contains("divisor"));
        let bare = VitConfig {
            class_token: false,
            ..vit()
        };
        assert!(refused(QueryStreamConfig::default(), bare).contains("class token"));
    }
}
