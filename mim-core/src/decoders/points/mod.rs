//! The point cloud decoder, from the coarsest level to finer ones.

mod propagation;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

pub use propagation::PointPropagation;

use crate::encoders::{LevelTokens, PointEncoderConfig, PointPositions, run_with_positions};
use crate::nn::{Block, BlockConfig, LayerNorm, NormKind, QkvBias};
use crate::params::Params;
use crate::points::PointLevels;
use crate::{Error, Result, StepContext, ops};

const NAME: &str = "decoder";

/// Settings of [`PointDecoder`]; `Default` is that of Point-M2AE and I2P-MAE.
///
/// Lists have one number per stage, coarsest first. Widths are those of the encoder's levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PointDecoderConfig {
    /// Blocks per stage. Default `[1, 1]`.
    pub depths: Vec<usize>,
    /// Residual blocks in the propagation to each stage but the first. Default `[1]`.
    pub up_blocks: Vec<usize>,
    /// Attention heads on every stage. Default 6.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of the token width. Default 4.
    pub mlp_ratio: f64,
    /// Epsilon of the layer norms. Default 1e-5.
    pub norm_eps: f64,
    /// Stochastic depth rate of the last block; it grows linearly from 0. Default 0.1.
    pub drop_path_rate: f64,
}

impl Default for PointDecoderConfig {
    fn default() -> Self {
        Self {
            depths: vec![1, 1],
            up_blocks: vec![1],
            num_heads: 6,
            mlp_ratio: 4.,
            norm_eps: 1e-5,
            drop_path_rate: 0.1,
        }
    }
}

impl PointDecoderConfig {
    /// The encoder level whose groups are predicted.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the number of stages does not match the levels.
    pub fn level(&self, encoder: &PointEncoderConfig) -> Result<usize> {
        let (stages, levels) = (self.depths.len(), encoder.levels());
        if stages == 0 || stages > levels || self.up_blocks.len() + 1 != stages {
            let value = format!("{:?}", self.depths);
            let why = format!(
                "up_blocks has {} numbers, and the encoder has {levels} levels",
                self.up_blocks.len()
            );
            let fix =
                "give depths one number per stage, at most one per level, and up_blocks one less";
            return Err(Error::config(NAME, "depths", value, why, fix));
        }
        if !(0. ..1.).contains(&self.drop_path_rate) {
            let (value, why) = (self.drop_path_rate, "it must be in [0, 1)");
            let fix = "use 0 for no stochastic depth";
            return Err(Error::config(NAME, "drop_path_rate", value, why, fix));
        }
        Ok(levels - stages)
    }
}

/// The layers of one stage.
#[derive(Debug, Clone)]
struct Stage {
    /// Propagation from the previous stage.
    propagation: Option<PointPropagation>,
    positions: PointPositions,
    blocks: Vec<Block>,
}

/// Decodes groups from coarse to fine. On the coarsest level, blocks run over all groups, with a mask token for each
/// hidden one. On finer levels, they run on features from three neighbours of the previous stage and the visible
/// tokens.
///
/// Zhang et al., Point-M2AE, NeurIPS 2022, Sec. 3.3; ZrrSkywalker/I2P-MAE @ 7d4e519, `models/I2P_MAE.py`.
#[derive(Debug, Clone)]
pub struct PointDecoder {
    mask_token: Tensor,
    stages: Vec<Stage>,
    norm: LayerNorm,
    level: usize,
}

impl PointDecoder {
    /// Parameters `mask_token`, `h_decoder.S.blocks.N`, `decoder_pos_embeds.S`, `token_prop.S`, `decoder_norm`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(
        params: &Params,
        config: &PointDecoderConfig,
        encoder: &PointEncoderConfig,
    ) -> Result<Self> {
        let level = config.level(encoder)?;
        let total: usize = config.depths.iter().sum();
        // Random streams of stochastic depth after those of the encoder.
        let (before, mut first) = (encoder.depths.iter().sum::<usize>(), 0);
        let mut stages = Vec::new();
        let dims: Vec<usize> = encoder.embed_dims.iter().rev().copied().collect();
        for (stage, &depth) in config.depths.iter().enumerate() {
            let dim = dims[stage];
            let block = |place: usize| {
                let index = first + place;
                let rate = config.drop_path_rate * index as f64 / (total.max(2) - 1) as f64;
                let params = params.pp("h_decoder").pp(stage).pp("blocks").pp(place);
                let number = u32::try_from(before + index).unwrap_or(u32::MAX);
                Block::new(&params, &config.block(dim, rate), number)
            };
            config.block(dim, 0.).validate(NAME)?;
            stages.push(Stage {
                propagation: match stage.checked_sub(1) {
                    Some(last) => Some(PointPropagation::new(
                        &params.pp("token_prop").pp(last),
                        (dim, dims[last]),
                        config.up_blocks[last],
                    )?),
                    None => None,
                },
                positions: PointPositions::new(&params.pp("decoder_pos_embeds").pp(stage), dim)?,
                blocks: (0..depth).map(block).collect::<Result<_>>()?,
            });
            first += depth;
        }
        let dim = dims[config.depths.len() - 1];
        Ok(Self {
            mask_token: params.weight(&[1, 1, dims[0]], "mask_token")?,
            norm: LayerNorm::new(&params.pp("decoder_norm"), dim, config.norm_eps)?,
            stages,
            level,
        })
    }

    /// The level of the predicted groups.
    pub fn level(&self) -> usize {
        self.level
    }

    /// Tokens of all groups of [`PointDecoder::level`], `[batch, groups, dim]`, from the encoder's tokens of all
    /// levels.
    ///
    /// # Errors
    ///
    /// If the tokens do not match the encoder.
    pub fn decode(
        &self,
        levels: &PointLevels,
        encoded: &[LevelTokens],
        step: &StepContext,
    ) -> Result<Tensor> {
        let coarsest = encoded.len().saturating_sub(1);
        let (mut xs, mut centers) = self.coarsest(levels, encoded)?;
        for (stage, layers) in self.stages.iter().enumerate() {
            let index = coarsest - stage;
            if let Some(propagation) = &layers.propagation {
                let level = levels.level(index)?;
                let (batch, groups) = (level.centers.dim(0)?, level.groups()?);
                let tokens = &encoded[index];
                let dim = tokens.tokens.dim(2)?;
                let nothing = Tensor::zeros((batch * groups, dim), xs.dtype(), xs.device())?;
                let skip = tokens.unpack(&nothing)?;
                let coarse = (&centers, &xs.flatten_to(1)?);
                xs = propagation.forward((&level.centers, &skip), coarse, step)?;
                xs = xs.reshape((batch, groups, ()))?;
                centers = level.centers.clone();
            }
            let positions = layers.positions.forward(&centers)?;
            xs = run_with_positions(&layers.blocks, xs, &positions, None, step)?;
        }
        self.norm.forward(&xs)
    }

    /// Tokens of the coarsest groups and their centres, the visible ones of each cloud first.
    fn coarsest(&self, levels: &PointLevels, encoded: &[LevelTokens]) -> Result<(Tensor, Tensor)> {
        let last = encoded.last().ok_or_else(|| {
            Error::unsupported(
                "a cloud without levels",
                "there is nothing to decode",
                "add levels",
            )
        })?;
        let level = levels.level(encoded.len() - 1)?;
        let (batch, groups, visible) = (
            level.centers.dim(0)?,
            level.groups()?,
            last.mask.exact_keep()?,
        );
        let dim = last.tokens.dim(2)?;
        let hidden = self
            .mask_token
            .broadcast_as((batch, groups - visible, dim))?;
        let xs = Tensor::cat(&[&last.tokens, &hidden], 1)?;
        let (step, device) = (u32::try_from(groups).unwrap_or(u32::MAX), xs.device());
        let order = (0u32..).take(batch).zip(0..).flat_map(|(cloud, row)| {
            let ids = last.mask.visible(row).iter().chain(last.mask.hidden(row));
            ids.map(move |id| cloud * step + id).collect::<Vec<_>>()
        });
        let order = ops::upload(order.collect::<Vec<_>>(), batch * groups, device)?;
        let centers = ops::gather_rows(&level.centers.flatten_to(1)?, &order)?;
        Ok((xs, centers.reshape((batch, groups, 3))?))
    }
}

impl PointDecoderConfig {
    fn block(&self, dim: usize, drop_path: f64) -> BlockConfig {
        BlockConfig {
            dim,
            num_heads: self.num_heads,
            mlp_ratio: self.mlp_ratio,
            qkv_bias: QkvBias::None,
            norm: NormKind::LayerNorm,
            norm_eps: self.norm_eps,
            layer_scale_init: None,
            drop_path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders::PointEncoder;
    use crate::objectives::testing::noise;
    use crate::points::pass_down;
    use crate::{Mask, ParamStore, PatchGrid};

    #[test]
    fn gradients_arrive_at_encoder_and_decoder() {
        let config = PointEncoderConfig {
            num_points: 40,
            num_groups: vec![16, 8, 4],
            group_sizes: vec![6, 4, 3],
            embed_dims: vec![8, 12, 16],
            depths: vec![1; 3],
            embed_hidden: [4, 8, 12],
            num_heads: 2,
            ..PointEncoderConfig::default()
        };
        let decoder = PointDecoderConfig {
            num_heads: 2,
            ..PointDecoderConfig::default()
        };
        let (store, step) = (ParamStore::cpu(1), StepContext::new(0));
        let encoder = PointEncoder::new(&store.root(), &config).unwrap();
        let decoder = PointDecoder::new(&store.root(), &decoder, &config).unwrap();
        let levels = encoder.group(&noise(&[2, 40, 3], 1)).unwrap();
        let top = Mask::from_bits(PatchGrid::new(4, 1), &[0, 1, 1, 1, 1, 0, 1, 1]).unwrap();
        let masks = pass_down(&levels, &top, true).unwrap();
        let encoded = encoder.encode_levels(&levels, masks, &step).unwrap();
        let tokens = decoder.decode(&levels, &encoded, &step).unwrap();
        assert_eq!((tokens.dims(), decoder.level()), (&[2, 8, 12][..], 1));
        let grads = tokens
            .powf(3.)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        for (name, var) in store.trainable() {
            assert!(grads.get(&var).is_some(), "{name}");
        }
    }

    #[test]
    fn refuses_more_stages_than_levels() {
        let config = PointDecoderConfig {
            depths: vec![1; 4],
            up_blocks: vec![1; 3],
            ..PointDecoderConfig::default()
        };
        let error = config.level(&PointEncoderConfig::default()).unwrap_err();
        assert!(error.to_string().contains("3 levels"), "{error}");
    }
}
