//! PeCo's tokenizer: a convolutional network with a codebook.
//!
//! Dong et al., "PeCo: Perceptual Codebook for BERT Pre-training of Vision Transformers", AAAI 2023, arXiv 2111.12710, by
//! its text, since no code was released. Feature maps are channels-last.

mod network;

use candle_core::Tensor;
use mim_core::nn::{Codebook, CodebookConfig, Quantized};
use mim_core::ops::{Precision, with_precision};
use mim_core::params::Params;
use mim_core::{Error, Norm, Result, StepContext, Tokenizer};
use serde::{Deserialize, Serialize};

use network::{Decoder, Encoder};

/// Settings of [`PecoTokenizer`]; `Default` is the paper's: 8192 codes, one per 16x16 pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PecoNetworkConfig {
    /// Channels of the images. Default 3.
    pub in_channels: usize,
    /// How many times height and width are halved. Default 4.
    pub levels: usize,
    /// Width of all levels. Default 256.
    pub hidden_dim: usize,
    /// The codebook. Default: Euclidean, of width 256.
    pub codebook: CodebookConfig,
}

impl Default for PecoNetworkConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            levels: 4,
            hidden_dim: 256,
            codebook: CodebookConfig::peco(),
        }
    }
}

impl PecoNetworkConfig {
    /// Side in pixels covered by one token.
    pub fn stride(&self) -> usize {
        1 << self.levels
    }

    /// Normalisation of the images: `[0, 1]` to `[-1, 1]`.
    pub fn norm(&self) -> Norm {
        Norm::uniform(0.5, 0.5, self.in_channels)
    }

    /// Checks ranges.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        let bad = |field: &'static str, value: usize, why: &'static str, fix: &'static str| {
            Err(Error::config("peco network", field, value, why, fix))
        };
        if !(1..=8).contains(&self.levels) {
            let why = "images must be halved one to eight times";
            return bad(
                "levels",
                self.levels,
                why,
                "use 4 for 16x16 pixels per token",
            );
        }
        if self.hidden_dim == 0 {
            return bad(
                "hidden_dim",
                0,
                "a level needs at least one channel",
                "use 256",
            );
        }
        if self.in_channels == 0 {
            return bad(
                "in_channels",
                0,
                "images must have at least one channel",
                "use 3",
            );
        }
        self.codebook.validate()
    }
}

/// Output of the network.
#[derive(Debug, Clone)]
pub struct Coded {
    /// The encoder's output, `[batch, rows, cols, dim]`.
    pub latents: Tensor,
    /// The quantised latents, row by row.
    pub quantized: Quantized,
    /// The reconstructed images, `[batch, channels, height, width]` in `[-1, 1]`, not clamped.
    pub images: Tensor,
}

/// Encoder, codebook and decoder.
#[derive(Debug)]
pub struct PecoTokenizer {
    encoder: Encoder,
    codebook: Codebook,
    decoder: Decoder,
    norm: Norm,
    stride: usize,
}

impl PecoTokenizer {
    /// Parameters `encoder`, `codebook` and `decoder`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &PecoNetworkConfig) -> Result<Self> {
        config.validate()?;
        let (codebook, norm) = (&config.codebook, config.norm());
        Ok(Self {
            encoder: Encoder::new(&params.pp("encoder"), config)?,
            codebook: codebook.build(&params.pp("codebook"))?,
            decoder: Decoder::new(&params.pp("decoder"), config)?,
            norm,
            stride: config.stride(),
        })
    }

    /// Normalisation of the images.
    pub fn norm(&self) -> &Norm {
        &self.norm
    }

    /// The codebook.
    pub fn codebook(&self) -> &Codebook {
        &self.codebook
    }

    /// Encodes normalised images `[batch, channels, height, width]` and decodes them again. In a training step, the
    /// codebook is updated.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] unless the sides are multiples of the stride.
    pub fn reconstruct(&self, images: &Tensor, step: &StepContext) -> Result<Coded> {
        let latents = self.latents(images)?;
        let quantized = self.codebook.quantize(&latents.flatten(0, 2)?, step)?;
        let map = quantized.vectors.reshape(latents.shape())?;
        Ok(Coded {
            images: self.decoder.forward(&map)?,
            latents,
            quantized,
        })
    }

    fn latents(&self, images: &Tensor) -> Result<Tensor> {
        let fits = |side: usize| side > 0 && side.is_multiple_of(self.stride);
        let channels = self.norm.mean.len();
        match *images.dims() {
            [_, own, height, width] if own == channels && fits(height) && fits(width) => {
                self.encoder.forward(&images.permute((0, 2, 3, 1))?)
            }
            _ => Err(Error::shape(
                "images of PeCo's tokenizer",
                format!(
                    "[batch, {channels}, height, width] with sides that are multiples of {}",
                    self.stride
                ),
                images.dims(),
                "resize the images, or change network.levels",
            )),
        }
    }
}

impl Tokenizer for PecoTokenizer {
    fn vocab_size(&self) -> usize {
        self.codebook.config().size
    }

    fn stride(&self) -> usize {
        self.stride
    }

    fn channels(&self) -> usize {
        self.norm.mean.len()
    }

    fn tokens(&self, images: &Tensor, _step: &StepContext) -> Result<Tensor> {
        let images = self.norm.apply(images)?;
        let latents = with_precision(Precision::F32, || self.latents(&images))?;
        let (batch, rows, cols, _) = latents.dims4()?;
        let codes = self.codebook.nearest(&latents.flatten(0, 2)?)?;
        Ok(codes.reshape((batch, rows, cols))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::ParamStore;

    fn tiny() -> PecoNetworkConfig {
        PecoNetworkConfig {
            levels: 2,
            hidden_dim: 4,
            codebook: CodebookConfig {
                size: 8,
                dim: 3,
                ..CodebookConfig::peco()
            },
            ..PecoNetworkConfig::default()
        }
    }

    #[test]
    fn images_keep_their_size_and_others_are_refused() {
        let tokenizer = PecoTokenizer::new(&ParamStore::cpu(0).root(), &tiny()).unwrap();
        let images = Tensor::rand(0f32, 1f32, (2, 3, 8, 12), &Device::Cpu).unwrap();
        let step = StepContext::inference();
        let coded = tokenizer.reconstruct(&images, &step).unwrap();
        assert_eq!(coded.images.dims(), images.dims());
        assert_eq!(coded.latents.dims(), [2, 2, 3, 3]);
        let tokens = tokenizer.tokens(&images, &step).unwrap();
        assert_eq!(tokens.dims(), [2, 2, 3]);
        for shape in [(1, 3, 8, 10), (1, 1, 8, 8)] {
            let images = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
            let error = tokenizer.reconstruct(&images, &step).unwrap_err();
            assert!(error.to_string().contains("multiples of 4"), "{error}");
        }
    }

    #[test]
    fn invalid_sizes_are_named() {
        for (wrong, part) in [
            (
                PecoNetworkConfig {
                    levels: 0,
                    ..tiny()
                },
                "`levels` is 0",
            ),
            (
                PecoNetworkConfig {
                    hidden_dim: 0,
                    ..tiny()
                },
                "`hidden_dim` is 0",
            ),
        ] {
            let error = wrong.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
