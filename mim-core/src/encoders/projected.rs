//! An encoder followed by a projector.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::nn::{Block, BlockConfig, Linear, NormKind, QkvBias};
use crate::params::Params;
use crate::{EncodeOptions, Encoded, Encoder, Masking, PatchGrid, Result, StepContext};

/// Settings of the projector of [`Projected`]; `Default` is SIM's for ViT-B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Width of the output tokens; a multiple of `num_heads`. Default 768.
    pub embed_dim: usize,
    /// Number of blocks. Default 2.
    pub depth: usize,
    /// Attention heads. Default 16.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of `embed_dim`. Default 4.
    pub mlp_ratio: f64,
    /// Norms of the blocks. Default `batch_norm`.
    pub norm: NormKind,
    /// Epsilon of the norms. Default 1e-5, as for batch norm.
    pub norm_eps: f64,
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        Self {
            embed_dim: 768,
            depth: 2,
            num_heads: 16,
            mlp_ratio: 4.,
            norm: NormKind::BatchNorm,
            norm_eps: 1e-5,
        }
    }
}

impl ProjectorConfig {
    fn block(&self) -> BlockConfig {
        BlockConfig {
            dim: self.embed_dim,
            num_heads: self.num_heads,
            mlp_ratio: self.mlp_ratio,
            qkv_bias: QkvBias::Full,
            norm: self.norm,
            norm_eps: self.norm_eps,
            layer_scale_init: None,
            drop_path: 0.,
        }
    }
}

/// Another encoder followed by a linear layer and transformer blocks (Tao et al., CVPR 2023, Sec. 3.3).
///
/// Downstream tasks use the inner encoder, [`Encoder::trunk`].
#[derive(Debug, Clone)]
pub struct Projected<E> {
    trunk: E,
    embed: Linear,
    blocks: Vec<Block>,
    dim: usize,
}

impl<E: Encoder> Projected<E> {
    /// Puts a projector after `trunk`: parameters `decoder_embed`, `projector_decoder_blocks.N`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) if a setting is invalid.
    pub fn new(params: &Params, trunk: E, config: &ProjectorConfig) -> Result<Self> {
        let (block, dim) = (config.block(), config.embed_dim);
        block.validate("projector")?;
        let blocks = params.pp("projector_decoder_blocks");
        Ok(Self {
            embed: Linear::new(&params.pp("decoder_embed"), trunk.dim(), dim)?,
            blocks: (0..config.depth)
                .map(|index| Block::new(&blocks.pp(index), &block, 0))
                .collect::<Result<_>>()?,
            trunk,
            dim,
        })
    }
}

impl<E: Encoder> Encoder for Projected<E> {
    fn dim(&self) -> usize {
        self.dim
    }

    fn trunk(&self) -> &dyn Encoder {
        self.trunk.trunk()
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        self.trunk.grid(image)
    }

    /// Layers and attention come from the trunk; its tokens are traced as `latent`, the result as `projected`.
    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        let encoded = self.trunk.encode(image, masking, want, step)?;
        let mut xs = self.embed.forward(&encoded.tokens)?;
        for block in &self.blocks {
            xs = block.forward(&xs, None, step)?;
        }
        step.trace("projected", || Ok(xs.clone()))?;
        Ok(Encoded {
            tokens: xs,
            ..encoded
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders::{Vit, VitConfig};
    use crate::{Mask, ParamStore};
    use candle_core::{DType, Device};

    fn vit() -> VitConfig {
        VitConfig {
            image_size: 8.into(),
            patch_size: 4,
            embed_dim: 8,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        }
    }

    fn projector() -> ProjectorConfig {
        ProjectorConfig {
            embed_dim: 12,
            depth: 1,
            num_heads: 3,
            ..ProjectorConfig::default()
        }
    }

    fn build(config: &ProjectorConfig) -> Result<(ParamStore, Projected<Vit>)> {
        let store = ParamStore::cpu(0);
        let trunk = Vit::new(&store.root(), &vit())?;
        let built = Projected::new(&store.root(), trunk, config)?;
        Ok((store, built))
    }

    #[test]
    fn gradients_arrive_and_the_trunk_is_the_inner_encoder() {
        let (store, encoder) = build(&projector()).unwrap();
        let images = Tensor::rand(0f32, 1f32, (2, 3, 8, 8), &Device::Cpu).unwrap();
        let mask = Mask::from_bits(PatchGrid::new(2, 2), &[0, 1, 0, 1, 1, 0, 0, 1]).unwrap();
        let step = StepContext::new(0);
        let encoded = encoder
            .encode(
                &images,
                Masking::Drop(&mask),
                &EncodeOptions::default(),
                &step,
            )
            .unwrap();
        assert_eq!(
            (encoded.tokens.dims(), encoder.dim()),
            (&[2, 3, 12][..], 12)
        );
        assert_eq!(encoder.trunk().dim(), 8);
        assert_eq!(encoder.grid((8, 8)).unwrap(), PatchGrid::new(2, 2));
        let grads = encoded.tokens.sqr().unwrap().sum_all().unwrap().backward();
        let grads = grads.unwrap();
        for (name, var) in store.trainable() {
            assert!(grads.get(&var).is_some(), "{name}");
        }
        let buffer = "projector_decoder_blocks.0.norm1.bn.running_mean";
        let mean = store.var(buffer).unwrap().to_dtype(DType::F32).unwrap();
        assert!(mean.to_vec1::<f32>().unwrap().iter().any(|v| *v != 0.));
    }

    #[test]
    fn refuses_heads_that_do_not_divide_the_width() {
        let config = ProjectorConfig {
            num_heads: 5,
            ..projector()
        };
        let error = build(&config).unwrap_err().to_string();
        assert!(
            error.contains("projector") && error.contains("`num_heads` is 5"),
            "{error}"
        );
    }
}
