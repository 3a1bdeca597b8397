//! Tokens to images.

use candle_core::{D, Tensor};
use mim_core::nn::{Conv, doubled};
use mim_core::ops::{Precision, with_precision};
use mim_core::params::Params;
use mim_core::{Error, Result};

use super::block::{ResBlock, group, same};
use super::{DvaeConfig, GROUPS, unmap_pixels};

/// Kernel sides in a block.
const SIDES: [usize; 4] = [1, 3, 3, 3];

/// The decoder, for drawing tokens.
#[derive(Debug, Clone)]
pub struct DvaeDecoder {
    input: Conv,
    groups: Vec<Vec<ResBlock>>,
    output: Conv,
    config: DvaeConfig,
}

impl DvaeDecoder {
    /// Parameters `blocks.input`, `blocks.group_G.block_B`, `blocks.output.conv`, counted from 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &DvaeConfig) -> Result<Self> {
        config.validate()?;
        let blocks = params.pp("blocks");
        let width = |index: usize| config.decoder_n_hid << (GROUPS - 1 - index);
        let groups = (0..GROUPS).map(|index| {
            let inputs = match index {
                0 => config.decoder_n_init,
                _ => width(index - 1),
            };
            let params = blocks.pp(format!("group_{}", index + 1));
            let (count, gain) = (config.n_blk_per_group, config.post_gain());
            group(&params, (inputs, width(index)), count, SIDES, gain)
        });
        let output = blocks.pp("output").pp("conv");
        let (vocabulary, init) = (config.vocab_size, config.decoder_n_init);
        Ok(Self {
            input: same(&blocks.pp("input"), vocabulary, init, 1)?,
            groups: groups.collect::<Result<_>>()?,
            output: same(&output, config.decoder_n_hid, 2 * config.in_channels, 1)?,
            config: config.clone(),
        })
    }

    /// Location and log-scale of each pixel, `[batch, height, width, 2 * channels]`, for tokens
    /// `[batch, rows, cols]`, u32. Products are f32, as in the encoder.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for another rank or a token outside the vocabulary.
    pub fn statistics(&self, tokens: &Tensor) -> Result<Tensor> {
        let bad = |got: String| {
            let expected = format!("[batch, rows, cols] below {}", self.config.vocab_size);
            Error::shape(
                "tokens of the dVAE",
                expected,
                got,
                "use tokens of this dVAE",
            )
        };
        if tokens.rank() != 3 || tokens.elem_count() == 0 {
            return Err(bad(format!("{:?}", tokens.dims())));
        }
        let largest = tokens.flatten_all()?.max(0)?.to_scalar::<u32>()?;
        if largest as usize >= self.config.vocab_size {
            return Err(bad(format!("the token {largest}")));
        }
        let ids = tokens.unsqueeze(D::Minus1)?;
        let all = Tensor::arange(
            0u32,
            u32::try_from(self.config.vocab_size).unwrap_or(u32::MAX),
            tokens.device(),
        )?;
        let one_hot = ids.broadcast_eq(&all)?.to_dtype(candle_core::DType::F32)?;
        with_precision(Precision::F32, || self.relaxed(&one_hot))
    }

    /// As [`DvaeDecoder::statistics`], for probabilities of all tokens `[batch, rows, cols, vocab_size]`: with
    /// gradients, and in the training precision.
    ///
    /// # Errors
    ///
    /// If the vocabulary size differs.
    pub fn relaxed(&self, shares: &Tensor) -> Result<Tensor> {
        self.forward(shares)
    }

    fn forward(&self, one_hot: &Tensor) -> Result<Tensor> {
        let mut xs = self.input.forward(one_hot)?;
        for (index, group) in self.groups.iter().enumerate() {
            for block in group {
                xs = block.forward(&xs)?;
            }
            if index + 1 < GROUPS {
                xs = doubled(&xs)?;
            }
        }
        self.output.forward(&xs.relu()?)
    }

    /// Decodes tokens to images `[batch, channels, height, width]` in `[0, 1]`.
    ///
    /// # Errors
    ///
    /// As [`DvaeDecoder::statistics`].
    pub fn images(&self, tokens: &Tensor) -> Result<Tensor> {
        let location = self
            .statistics(tokens)?
            .narrow(3, 0, self.config.in_channels)?;
        let pixels = ((location.neg()?.exp()? + 1.)?.recip())?;
        Ok(unmap_pixels(&pixels)?.permute((0, 3, 1, 2))?.contiguous()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::ParamStore;

    #[test]
    fn draws_images_in_the_right_size_and_refuses_unknown_tokens() {
        let config = DvaeConfig {
            n_blk_per_group: 1,
            vocab_size: 5,
            decoder_n_hid: 4,
            decoder_n_init: 3,
            ..DvaeConfig::default()
        };
        let store = ParamStore::cpu(1);
        let decoder = DvaeDecoder::new(&store.root(), &config).unwrap();
        let tokens = Tensor::new(&[[[0u32, 4, 2]]], &Device::Cpu).unwrap();
        assert_eq!(decoder.images(&tokens).unwrap().dims(), [1, 3, 8, 24]);
        let error = decoder.images(&(tokens + 1.).unwrap()).unwrap_err();
        assert!(error.to_string().contains("the token 5"), "{error}");
    }
}
