//! BEiT v2's tokenizer: a vision transformer with a small codebook.
//!
//! Peng et al., "BEiT v2", 2022, arXiv 2208.06366; microsoft/unilm @ 768a3c8, `beit2/modeling_vqkd.py`.

use candle_core::Tensor;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::{Codebook, CodebookConfig, Linear, PosEmbedKind, QkvBias};
use mim_core::ops::{Precision, with_precision};
use mim_core::params::Params;
use mim_core::{EncodeOptions, Encoder, ImageSize, Masking, Norm, Result, StepContext, Tokenizer};
use serde::{Deserialize, Serialize};

/// Settings of [`VqKdTokenizer`]; `Default` is the released one: ViT-B/16 with 8192 codes of width 32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VqKdTokenizerConfig {
    /// The encoder.
    pub encoder: VitConfig,
    /// The codebook.
    pub codebook: CodebookConfig,
}

impl Default for VqKdTokenizerConfig {
    fn default() -> Self {
        Self {
            encoder: Self::vit(VitConfig::default()),
            codebook: CodebookConfig::default(),
        }
    }
}

impl VqKdTokenizerConfig {
    /// BEiT v2's ViT variant: learned positions, biases of query and value.
    pub fn vit(size: VitConfig) -> VitConfig {
        VitConfig {
            qkv_bias: QkvBias::QV,
            pos_embed: PosEmbedKind::Learned,
            ..size
        }
    }

    /// Normalisation of the images: `[0, 1]` to `[-1, 1]`.
    pub fn norm(&self) -> Norm {
        Norm::uniform(0.5, 0.5, self.encoder.in_channels)
    }
}

/// Two linear layers with tanh between them, from `dim` to `outputs` values.
#[derive(Debug, Clone)]
pub struct TaskLayer {
    first: Linear,
    second: Linear,
}

impl TaskLayer {
    /// Parameters `0` and `2`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, dim: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            first: Linear::new(&params.pp("0"), dim, dim)?,
            second: Linear::new(&params.pp("2"), dim, outputs)?,
        })
    }

    /// Maps `[..., dim]` to `[..., outputs]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `dim` wide.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.second.forward(&self.first.forward(xs)?.tanh()?)
    }
}

/// Encoder and codebook: each patch becomes the index of the nearest code by angle.
#[derive(Debug)]
pub struct VqKdTokenizer {
    encoder: Vit,
    task: TaskLayer,
    codebook: Codebook,
    norm: Norm,
    stride: usize,
    size: ImageSize,
}

impl VqKdTokenizer {
    /// Parameters `encoder`, `encode_task_layer` and `quantize`.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &VqKdTokenizerConfig) -> Result<Self> {
        let encoder = &config.encoder;
        Ok(Self {
            encoder: Vit::new(&params.pp("encoder"), encoder)?,
            task: TaskLayer::new(
                &params.pp("encode_task_layer"),
                encoder.output_dim(),
                config.codebook.dim,
            )?,
            codebook: config.codebook.build(&params.pp("quantize"))?,
            norm: config.norm(),
            stride: encoder.patch_size,
            size: encoder.image_size,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Vit {
        &self.encoder
    }

    /// The codebook.
    pub fn codebook(&self) -> &Codebook {
        &self.codebook
    }

    /// Normalisation of the images.
    pub fn norm(&self) -> &Norm {
        &self.norm
    }

    /// The vectors compared with codes, `[batch, patches, dim]`, for normalised images.
    ///
    /// # Errors
    ///
    /// If the images do not match the encoder.
    pub fn latents(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        let encoded =
            self.encoder
                .encode(images, Masking::None, &EncodeOptions::default(), step)?;
        self.task.forward(&encoded.patches()?)
    }
}

impl Tokenizer for VqKdTokenizer {
    fn vocab_size(&self) -> usize {
        self.codebook.config().size
    }

    fn stride(&self) -> usize {
        self.stride
    }

    fn channels(&self) -> usize {
        self.norm.mean.len()
    }

    fn image_size(&self) -> Option<ImageSize> {
        Some(self.size)
    }

    fn tokens(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        let latents = with_precision(Precision::F32, || {
            self.latents(&self.norm.apply(images)?, step)
        })?;
        let codes = self.codebook.nearest(&latents.flatten(0, 1)?)?;
        let grid = self.encoder.grid((images.dim(2)?, images.dim(3)?))?;
        Ok(codes.reshape((images.dim(0)?, grid.rows, grid.cols))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use mim_core::ParamStore;

    #[test]
    fn every_patch_has_a_code_at_any_training_precision() {
        let config = VqKdTokenizerConfig {
            encoder: VqKdTokenizerConfig::vit(VitConfig {
                image_size: ImageSize {
                    height: 16,
                    width: 24,
                },
                patch_size: 8,
                embed_dim: 8,
                depth: 1,
                num_heads: 2,
                ..VitConfig::default()
            }),
            codebook: CodebookConfig {
                size: 32,
                dim: 4,
                ..CodebookConfig::default()
            },
        };
        let tokenizer = VqKdTokenizer::new(&ParamStore::cpu(1).root(), &config).unwrap();
        let images = Tensor::rand(0f32, 1f32, (2, 3, 16, 24), &Device::Cpu).unwrap();
        let tokens = |precision| {
            let step = StepContext::inference();
            let tokens = with_precision(precision, || tokenizer.tokens(&images, &step)).unwrap();
            assert_eq!(
                (tokens.dims(), tokens.dtype()),
                (&[2, 2, 3][..], DType::U32)
            );
            tokens.flatten_all().unwrap().to_vec1::<u32>().unwrap()
        };
        let plain = tokens(Precision::F32);
        assert!(plain.iter().all(|&token| token < 32));
        assert_eq!(tokens(Precision::Bf16), plain);
    }
}
