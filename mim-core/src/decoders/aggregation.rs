//! The patch-aggregation head of BEiT v2.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::encoders::{RelPosBiasKind, VitConfig};
use crate::nn::{Block, BlockConfig, LayerNorm, Linear, NormKind, RelPosBias};
use crate::params::Params;
use crate::{DecodeContext, Decoder, Error, Prediction, Result, Rows, ops};

const NAME: &str = "aggregation decoder";

/// Settings of [`AggregationDecoder`]; `Default` is BEiT v2's for ViT-B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AggregationDecoderConfig {
    /// Block of the encoder, from 0, whose patch tokens are read. Default 8, the ninth.
    pub layer: usize,
    /// Number of blocks. Default 2.
    pub depth: usize,
    /// Whether it shares the norm and the linear layer of the main prediction. Default true.
    pub shared_head: bool,
}

impl Default for AggregationDecoderConfig {
    fn default() -> Self {
        Self {
            layer: 8,
            depth: 2,
            shared_head: true,
        }
    }
}

/// Predicts hidden patches from the encoder's last class token and the patch tokens of an earlier block, with a few
/// blocks of its own. So the class token must carry what those patches lack (Peng et al., 2022, "BEiT v2", section
/// 2.3).
///
/// It uses the encoder's relative position bias. By default it shares the encoder's final norm and the linear
/// layer `decoder_pred` of a [`LinearDecoder`](super::LinearDecoder) under the same path.
#[derive(Debug, Clone)]
pub struct AggregationDecoder {
    /// The earlier block and the last one.
    layers: [usize; 2],
    blocks: Vec<Block>,
    bias: Option<RelPosBias>,
    norm: LayerNorm,
    pred: Linear,
}

impl AggregationDecoder {
    /// Parameters `cls_pt_layers.N` and, without sharing, `cls_pt_norm` and `cls_pt_lm_head`. The encoder must have
    /// been built under the same `params`; a patch has `outputs` values.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the encoder lacks that block, a class token or a final norm, or has a position bias
    /// per block.
    pub fn new(
        params: &Params,
        config: &AggregationDecoderConfig,
        encoder: &VitConfig,
        outputs: usize,
    ) -> Result<Self> {
        config.check(encoder)?;
        let (shared, dim) = (params.shared(), encoder.embed_dim);
        let bias = match encoder.rel_pos_bias {
            RelPosBiasKind::None => None,
            _ => Some(RelPosBias::new(
                &shared.pp("rel_pos_bias"),
                encoder.grid()?,
                encoder.num_heads,
            )?),
        };
        let (norm, pred) = match config.shared_head {
            true => (shared.pp("norm"), shared.pp("decoder_pred")),
            false => (params.pp("cls_pt_norm"), params.pp("cls_pt_lm_head")),
        };
        let block = |index: usize| {
            // Random streams of stochastic depth after those of the encoder.
            let number = u32::try_from(encoder.depth + index).unwrap_or(u32::MAX);
            let params = params.pp("cls_pt_layers").pp(index);
            let block = Block::new(&params, &config.block(encoder, index), number)?;
            let block = block.activation(encoder.activation);
            Ok(block.attn_drop(encoder.attn_drop_rate))
        };
        Ok(Self {
            layers: [config.layer, encoder.depth - 1],
            blocks: (0..config.depth).map(block).collect::<Result<_>>()?,
            bias,
            norm: LayerNorm::new(&norm, dim, encoder.norm_eps)?,
            pred: Linear::new(&pred, dim, outputs)?,
        })
    }

    /// The tokens after the last block, class token first.
    fn tokens(&self, cx: &DecodeContext<'_>) -> Result<Tensor> {
        let [early, last] = self.layers;
        let class = cx.encoded.layer(last)?.narrow(1, 0, 1)?;
        let mut xs = Tensor::cat(&[&class, &cx.encoded.layer_patches(early)?], 1)?;
        let bias = self.bias.as_ref().map(|bias| bias.forward(xs.device()));
        let bias = bias.transpose()?;
        for block in &self.blocks {
            xs = block.forward(&xs, bias.as_ref(), cx.step)?;
        }
        Ok(xs)
    }
}

impl AggregationDecoderConfig {
    fn check(&self, encoder: &VitConfig) -> Result<()> {
        let bad = |field: &'static str, value: String, why: String, fix: &'static str| {
            Err(Error::config(NAME, field, value, why, fix))
        };
        if self.layer >= encoder.depth {
            let why = format!(
                "the encoder's blocks are 0 to {}",
                encoder.depth.saturating_sub(1)
            );
            let fix = "use one of them; the paper uses the one at three quarters of the depth";
            return bad("layer", self.layer.to_string(), why, fix);
        }
        if self.depth == 0 {
            let why = "it needs at least one block".to_owned();
            return bad("depth", "0".to_owned(), why, "use 2");
        }
        let (holds, field, value, why) = if encoder.prefix() != 1 {
            (
                false,
                "encoder.class_token",
                encoder.class_token.to_string(),
                "the aggregation head predicts from the class token",
            )
        } else if !encoder.final_norm && self.shared_head {
            (
                false,
                "encoder.final_norm",
                encoder.final_norm.to_string(),
                "the aggregation head shares that norm",
            )
        } else {
            let shared = matches!(
                encoder.rel_pos_bias,
                RelPosBiasKind::None | RelPosBiasKind::Shared
            );
            (
                shared,
                "encoder.rel_pos_bias",
                format!("{:?}", encoder.rel_pos_bias),
                "its blocks share one table with the encoder",
            )
        };
        match holds {
            true => Ok(()),
            false => bad(
                field,
                value,
                why.to_owned(),
                "change this setting of the encoder",
            ),
        }
    }

    /// Settings of block `index`: those of the encoder's blocks from `layer` on.
    fn block(&self, encoder: &VitConfig, index: usize) -> BlockConfig {
        let place = self.layer + 1 + index;
        let last = (encoder.depth.max(self.layer + 1 + self.depth) - 1).max(1) as f64;
        BlockConfig {
            dim: encoder.embed_dim,
            num_heads: encoder.num_heads,
            mlp_ratio: encoder.mlp_ratio,
            qkv_bias: encoder.qkv_bias,
            norm: NormKind::LayerNorm,
            norm_eps: encoder.norm_eps,
            layer_scale_init: encoder.layer_scale_init,
            drop_path: encoder.drop_path_rate * place as f64 / last,
        }
    }
}

impl Decoder for AggregationDecoder {
    fn layers(&self) -> &[usize] {
        &self.layers
    }

    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        cx.needs_all("an aggregation decoder")?;
        let grid = cx.encoded.grid;
        let tokens = self.tokens(cx)?;
        let patches = tokens.narrow(1, 1, grid.len())?;
        let (rows, patches) = match cx.step.trace {
            Some(_) => (Rows::Patches, patches),
            None => {
                let ids = cx.mask.flat(true, patches.dim(0)?, patches.device())?;
                let hidden = ops::gather_rows(&patches.flatten(0, 1)?, &ids)?;
                (Rows::Masked, hidden)
            }
        };
        Ok(Prediction {
            values: self
                .pred
                .forward(&self.norm.forward(&patches.contiguous()?)?)?,
            rows,
            grid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoders::LinearDecoder;
    use crate::encoders::Vit;
    use crate::objectives::testing::noise;
    use crate::{
        Batch, EncodeOptions, Encoder, Mask, Masking, ParamStore, StepContext, TraceSink, View,
    };
    use candle_core::D;
    use std::sync::Arc;

    fn vit() -> VitConfig {
        VitConfig {
            image_size: 16.into(),
            patch_size: 8,
            embed_dim: 8,
            depth: 3,
            num_heads: 2,
            rel_pos_bias: RelPosBiasKind::Shared,
            mask_token: true,
            ..VitConfig::default()
        }
    }

    struct Nothing;

    impl TraceSink for Nothing {
        fn record(&self, _name: &str, _value: &Tensor) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn hidden_patches_alone_give_the_same_rows() {
        let store = ParamStore::cpu(1);
        let params = store.root();
        let encoder = Vit::new(&params, &vit()).unwrap();
        LinearDecoder::new(&params, 8, 5).unwrap();
        let config = AggregationDecoderConfig {
            layer: 1,
            ..AggregationDecoderConfig::default()
        };
        let before = store.trainable().len();
        let decoder = AggregationDecoder::new(&params, &config, &vit(), 5).unwrap();
        // Two blocks of twelve parameters; everything else is shared.
        assert_eq!(store.trainable().len() - before, 24);
        let image = noise(&[2, 3, 16, 16], 1);
        let grid = encoder.grid((16, 16)).unwrap();
        let mask = Mask::from_bits(grid, &[1, 0, 0, 1, 0, 1, 0, 0]).unwrap();
        let step = StepContext::new(0);
        let want = EncodeOptions {
            layers: decoder.layers().to_vec(),
            ..EncodeOptions::default()
        };
        let encoded = encoder
            .encode(&image, Masking::Replace(&mask), &want, &step)
            .unwrap();
        let batch = Batch::single(View::new(image, vec![]).unwrap());
        let decode = |step: &StepContext| {
            let cx = DecodeContext {
                encoded: &encoded,
                mask: &mask,
                batch: &batch,
                step,
            };
            decoder.decode(&cx).unwrap()
        };
        let hidden = decode(&step);
        let traced = StepContext {
            trace: Some(Arc::new(Nothing)),
            ..step.clone()
        };
        let all = decode(&traced);
        assert_eq!((hidden.rows, all.rows), (Rows::Masked, Rows::Patches));
        let ids = mask.flat(true, 2, all.values.device()).unwrap();
        let picked = all.values.flatten(0, 1).unwrap().index_select(&ids, 0);
        let apart = (picked.unwrap() - hidden.values).unwrap().abs().unwrap();
        let most = apart.flatten_all().unwrap().max(D::Minus1).unwrap();
        assert!(most.to_scalar::<f32>().unwrap() < 1e-5);
    }

    #[test]
    fn unsuitable_encoders_are_refused() {
        type Wrong = fn(&mut AggregationDecoderConfig, &mut VitConfig);
        let wrong: [(&str, Wrong); 4] = [
            ("`layer` is 8", |_, _| {}),
            ("`depth` is 0", |own, _| (own.layer, own.depth) = (1, 0)),
            ("encoder.class_token", |own, vit| {
                own.layer = 1;
                vit.class_token = false;
            }),
            ("encoder.rel_pos_bias", |own, vit| {
                own.layer = 1;
                vit.rel_pos_bias = RelPosBiasKind::PerBlock;
            }),
        ];
        for (part, spoil) in wrong {
            let (mut own, mut encoder) = (AggregationDecoderConfig::default(), vit());
            spoil(&mut own, &mut encoder);
            let params = ParamStore::cpu(0).root();
            let error = AggregationDecoder::new(&params, &own, &encoder, 5).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
