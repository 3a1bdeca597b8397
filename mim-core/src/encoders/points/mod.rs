//! The hierarchical transformer for point clouds.

mod config;
mod packed;
mod positions;

use candle_core::Tensor;

pub use config::PointEncoderConfig;
pub use positions::PointPositions;
pub(crate) use positions::{nearest, run_with_positions};

use self::packed::Packed;
use crate::nn::{Block, LayerNorm, PointEmbed};
use crate::params::Params;
use crate::points::{PointLevels, pass_down};
use crate::{
    EncodeOptions, Encoded, Encoder, Error, Mask, Masking, PatchGrid, Result, StepContext,
};

/// The layers of one level.
#[derive(Debug, Clone)]
struct Level {
    embed: PointEmbed,
    positions: PointPositions,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

/// The visible tokens of one level.
#[derive(Debug)]
pub struct LevelTokens {
    /// `[batch, most, dim]` after the norm of the level: the visible tokens of each cloud, then padding.
    pub tokens: Tensor,
    /// Which groups are visible.
    pub mask: Mask,
    packed: Packed,
}

impl LevelTokens {
    /// All groups `[batch * groups, dim]`: these tokens where visible, `others` where hidden.
    ///
    /// # Errors
    ///
    /// If `others` has another shape.
    pub fn unpack(&self, others: &Tensor) -> Result<Tensor> {
        self.packed.unpack(&self.tokens, others)
    }
}

/// A transformer on several levels of point groups; each level groups the tokens of the level below.
///
/// All groups are embedded; the visible ones go through the blocks of the level. If a group of the next level has
/// hidden members, their embeddings are used. Zhang et al., Point-M2AE, NeurIPS 2022, Sec. 3.1;
/// ZrrSkywalker/I2P-MAE @ 7d4e519, `models/I2P_MAE.py`.
#[derive(Debug, Clone)]
pub struct PointEncoder {
    config: PointEncoderConfig,
    levels: Vec<Level>,
}

impl PointEncoder {
    /// Parameters `token_embed.L`, `encoder_pos_embeds.L`, `encoder_blocks.L.blocks.N`, `encoder_norms.L`. The norm of
    /// the first level is never trained, because nothing uses its output.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &PointEncoderConfig) -> Result<Self> {
        config.validate()?;
        let total: usize = config.depths.iter().sum();
        let (mut inputs, mut first) = (3, 0);
        let mut levels = Vec::with_capacity(config.levels());
        for (level, (&dim, &depth)) in config.embed_dims.iter().zip(&config.depths).enumerate() {
            let hidden = match level {
                0 => config.embed_hidden,
                _ => [inputs, inputs, dim],
            };
            let block = |place: usize| {
                let index = first + place;
                let rate = config.drop_path_rate * index as f64 / (total.max(2) - 1) as f64;
                let params = params.pp("encoder_blocks").pp(level).pp("blocks").pp(place);
                let number = u32::try_from(index).unwrap_or(u32::MAX);
                Block::new(&params, &config.block(level, rate), number)
            };
            let norm = params.pp("encoder_norms").pp(level);
            levels.push(Level {
                embed: PointEmbed::new(&params.pp("token_embed").pp(level), inputs, hidden, dim)?,
                positions: PointPositions::new(&params.pp("encoder_pos_embeds").pp(level), dim)?,
                blocks: (0..depth).map(block).collect::<Result<_>>()?,
                norm: match level {
                    0 => LayerNorm::frozen(&norm, dim, config.norm_eps)?,
                    _ => LayerNorm::new(&norm, dim, config.norm_eps)?,
                },
            });
            (inputs, first) = (dim, first + depth);
        }
        Ok(Self {
            config: config.clone(),
            levels,
        })
    }

    /// The settings that this was built from.
    pub fn config(&self) -> &PointEncoderConfig {
        &self.config
    }

    /// Groups clouds `[batch, points, 3]` for this encoder.
    ///
    /// # Errors
    ///
    /// As [`PointLevels::new`].
    pub fn group(&self, points: &Tensor) -> Result<PointLevels> {
        #[expect(clippy::cast_possible_truncation, reason = "coordinates are f32")]
        PointLevels::new(points, &self.config.groups(), self.config.hollow as f32)
    }

    /// The tokens of all levels, finest first, with one mask per level ([`pass_down`]).
    ///
    /// Traces them as `level1`, `level2`, ... with `valid1`, ... (1 for tokens, 0 for padding).
    ///
    /// # Errors
    ///
    /// If the groups do not match this encoder, or a mask hides all groups of all clouds.
    pub fn encode_levels(
        &self,
        levels: &PointLevels,
        masks: Vec<Mask>,
        step: &StepContext,
    ) -> Result<Vec<LevelTokens>> {
        self.run(levels, masks, true, step)
    }

    fn run(
        &self,
        levels: &PointLevels,
        masks: Vec<Mask>,
        norm: bool,
        step: &StepContext,
    ) -> Result<Vec<LevelTokens>> {
        let mut below: Option<Tensor> = None;
        let mut all = Vec::with_capacity(self.levels.len());
        for (index, (layers, mask)) in self.levels.iter().zip(masks).enumerate() {
            let level = levels.level(index)?;
            let members = match &below {
                Some(rows) => level.gather(rows)?,
                None => levels.centred(index)?.flatten_to(1)?,
            };
            let embedded = layers.embed.forward(&members, step)?;
            let packed = Packed::new(&mask);
            let xs = packed.pack(&embedded)?;
            let positions = packed.pack(&level.centers.flatten_to(1)?)?;
            let positions = layers.positions.forward(&positions)?;
            let bias = packed.bias(xs.device())?;
            let xs = run_with_positions(&layers.blocks, xs, &positions, bias.as_ref(), step)?;
            if index + 1 < self.levels.len() {
                below = Some(packed.unpack(&xs, &embedded)?);
            }
            let tokens = match norm {
                true => layers.norm.forward(&xs)?,
                false => xs,
            };
            step.trace(&format!("level{}", index + 1), || Ok(tokens.clone()))?;
            step.trace(&format!("valid{}", index + 1), || packed.valid())?;
            all.push(LevelTokens {
                tokens,
                mask,
                packed,
            });
        }
        Ok(all)
    }

    /// The masks of all levels for `masking`; everything is visible without a mask.
    fn masks(&self, levels: &PointLevels, masking: Masking<'_>) -> Result<Vec<Mask>> {
        match masking {
            Masking::None => {
                let batch = levels.points().dim(0)?;
                let whole = |groups: &usize| {
                    Mask::from_bits(PatchGrid::new(*groups, 1), &vec![0; batch * groups])
                };
                self.config.num_groups.iter().map(whole).collect()
            }
            Masking::Drop(mask) => pass_down(levels, mask, false),
            Masking::Replace(_) | Masking::Causal(_) => Err(Error::unsupported(
                "replacing or ordering hidden point groups",
                "this encoder has no mask token and no causal attention",
                "drop them (MaskMode::Drop)",
            )),
        }
    }
}

impl Encoder for PointEncoder {
    fn dim(&self) -> usize {
        self.config.embed_dims.last().copied().unwrap_or(0)
    }

    fn trunk(&self) -> &dyn Encoder {
        self
    }

    /// One column of the coarsest groups, for clouds of size (points, 1).
    fn grid(&self, _cloud: (usize, usize)) -> Result<PatchGrid> {
        let groups = self.config.num_groups.last().copied().unwrap_or(0);
        Ok(PatchGrid::new(groups, 1))
    }

    /// Encodes clouds `[batch, points, 3]` to the tokens of the coarsest level. A mask covers these tokens, hides the
    /// same number in each cloud, and drops them.
    fn encode(
        &self,
        points: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        if want.cls_attention || !want.layers.is_empty() {
            return Err(Error::unsupported(
                "attention or outputs of single blocks of a point cloud encoder",
                "each level has its own tokens, and there is no class token",
                "use only its output tokens",
            ));
        }
        let levels = self.group(points)?;
        let masks = self.masks(&levels, masking)?;
        if let Masking::Drop(mask) = masking {
            mask.exact_keep()?;
        }
        let mut all = self.run(&levels, masks, !want.skip_norm, step)?;
        let last = all.pop().ok_or_else(|| {
            Error::unsupported(
                "a cloud without levels",
                "there is nothing to encode",
                "add levels",
            )
        })?;
        Ok(Encoded {
            tokens: last.tokens,
            prefix: 0,
            layers: Vec::new(),
            cls_attention: None,
            grid: self.grid((0, 0))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    fn config() -> PointEncoderConfig {
        PointEncoderConfig {
            num_points: 40,
            num_groups: vec![16, 8, 4],
            group_sizes: vec![6, 4, 3],
            embed_dims: vec![8, 12, 16],
            depths: vec![1, 1, 2],
            embed_hidden: [4, 8, 12],
            num_heads: 2,
            drop_path_rate: 0.,
            ..PointEncoderConfig::default()
        }
    }

    #[test]
    fn an_empty_mask_equals_no_mask() {
        let store = ParamStore::cpu(3);
        let encoder = PointEncoder::new(&store.root(), &config()).unwrap();
        let cloud = noise(&[2, 40, 3], 1);
        let step = StepContext::inference();
        let encode = |masking: Masking<'_>| {
            let want = EncodeOptions::default();
            let encoded = encoder.encode(&cloud, masking, &want, &step).unwrap();
            encoded.tokens.to_vec3::<f32>().unwrap()
        };
        let plain = encode(Masking::None);
        assert_eq!((plain[0].len(), encoder.dim()), (4, 16));
        let whole = Mask::from_bits(PatchGrid::new(4, 1), &[0; 8]).unwrap();
        // Groups that are members of no coarser group stay hidden, and nothing attends to them.
        let masked = encode(Masking::Drop(&whole));
        assert_eq!(masked[1].len(), plain[1].len());
        let half = Mask::from_bits(PatchGrid::new(4, 1), &[0, 1, 0, 1, 1, 1, 0, 0]).unwrap();
        assert_eq!(encode(Masking::Drop(&half))[0].len(), 2);
    }

    #[test]
    fn every_trained_parameter_gets_a_gradient() {
        let store = ParamStore::cpu(3);
        let encoder = PointEncoder::new(&store.root(), &config()).unwrap();
        let step = StepContext::new(0);
        let want = EncodeOptions::default();
        let encoded = encoder.encode(&noise(&[2, 40, 3], 1), Masking::None, &want, &step);
        let tokens = encoded.unwrap().tokens;
        let grads = tokens.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (name, var) in store.trainable() {
            // The norms of the lower levels are for decoders.
            let lower = name.starts_with("encoder_norms.1");
            assert_eq!(grads.get(&var).is_none(), lower, "{name}");
        }
        let want = EncodeOptions {
            cls_attention: true,
            ..want
        };
        assert!(
            encoder
                .encode(&noise(&[1, 40, 3], 1), Masking::None, &want, &step)
                .is_err()
        );
    }
}
