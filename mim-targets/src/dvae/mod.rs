//! DALL-E's discrete VAE: a frozen network that turns images into tokens.
//!
//! Ramesh et al., "Zero-Shot Text-to-Image Generation", ICML 2021; openai/DALL-E, `dall_e`. Feature maps
//! are channels-last.

mod block;
mod decoder;
mod encoder;

use candle_core::{DType, Tensor};
use mim_core::weights::WeightMap;
use mim_core::{Error, Result};
use serde::{Deserialize, Serialize};

pub use decoder::DvaeDecoder;
pub use encoder::DvaeEncoder;

/// Distance of mapped pixels from 0 and 1.
const LOGIT_LAPLACE_EPS: f64 = 0.1;
/// Number of groups of blocks; all but one change the resolution.
const GROUPS: usize = 4;

/// Settings of [`DvaeEncoder`] and [`DvaeDecoder`]; `Default` is the released network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DvaeConfig {
    /// Width of the first group; each further group is twice as wide as the previous one. Default 256.
    pub n_hid: usize,
    /// Blocks per group. Default 2.
    pub n_blk_per_group: usize,
    /// Number of tokens. Default 8192.
    pub vocab_size: usize,
    /// Channels of the images. Default 3.
    pub in_channels: usize,
    /// Width of the decoder's last group. Default 256.
    pub decoder_n_hid: usize,
    /// Initial width of the decoder. Default 128.
    pub decoder_n_init: usize,
}

impl Default for DvaeConfig {
    fn default() -> Self {
        Self {
            n_hid: 256,
            n_blk_per_group: 2,
            vocab_size: 8192,
            in_channels: 3,
            decoder_n_hid: 256,
            decoder_n_init: 128,
        }
    }
}

impl DvaeConfig {
    /// Side in pixels covered by one token.
    pub const STRIDE: usize = 1 << (GROUPS - 1);

    /// Checks that every width is positive and a multiple of four.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("n_blk_per_group", self.n_blk_per_group),
            ("vocab_size", self.vocab_size),
            ("in_channels", self.in_channels),
            ("decoder_n_init", self.decoder_n_init),
        ];
        let widths = [("n_hid", self.n_hid), ("decoder_n_hid", self.decoder_n_hid)];
        let bad = |field: &'static str, value: usize, why: &'static str| {
            let fix = "remove it to use the released network";
            Err(Error::config("dvae", field, value, why, fix))
        };
        if let Some(&(field, value)) = positive.iter().find(|(_, value)| *value == 0) {
            return bad(field, value, "there must be at least one");
        }
        let uneven = |&&(_, width): &&(&str, usize)| width == 0 || !width.is_multiple_of(4);
        match widths.iter().find(uneven) {
            Some(&(field, value)) => bad(
                field,
                value,
                "it must be a multiple of 4, since blocks are a fourth as wide inside",
            ),
            None => Ok(()),
        }
    }

    /// Checks that an encoder's weights, in our names, have this width and vocabulary size.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] with the sizes of the weights.
    pub fn check_weights(&self, weights: &WeightMap) -> Result<()> {
        let outputs = |name: &str| {
            let tensor = weights.get(name)?;
            tensor.dims().first().copied()
        };
        let sizes = [
            (
                "n_hid",
                self.n_hid,
                outputs("encoder.blocks.input.weight"),
                "channels in their first layer",
            ),
            (
                "vocab_size",
                self.vocab_size,
                outputs("encoder.blocks.output.conv.weight"),
                "tokens in their codebook",
            ),
        ];
        for (field, set, found, what) in sizes {
            if let Some(found) = found.filter(|found| *found != set) {
                let why = format!("the weights have {found} {what}");
                let fix = format!("set target.network.{field} = {found}, or use other weights");
                return Err(Error::config("dvae", field, set, why, fix));
            }
        }
        Ok(())
    }

    /// Factor of a block's residual path.
    fn post_gain(&self) -> f64 {
        1. / ((GROUPS * self.n_blk_per_group) as f64).powi(2)
    }
}

/// Maps pixels from `[0, 1]` to `[0.1, 0.9]`, the network's input range.
///
/// # Errors
///
/// [`Error::Shape`] unless `images` is `[batch, channels, height, width]`, [`Error::Unsupported`]
/// unless it is f32.
pub fn map_pixels(images: &Tensor) -> Result<Tensor> {
    if images.rank() != 4 {
        return Err(Error::shape(
            "images of the dVAE",
            "[batch, channels, height, width]",
            images.dims(),
            "use a batch of images",
        ));
    }
    if images.dtype() != DType::F32 {
        return Err(Error::unsupported(
            format!("images of the dVAE in {:?}", images.dtype()),
            "it needs f32 pixels between 0 and 1, without normalisation",
            "convert them (View::unit)",
        ));
    }
    Ok(images.affine(1. - 2. * LOGIT_LAPLACE_EPS, LOGIT_LAPLACE_EPS)?)
}

/// The inverse of [`map_pixels`]; values outside `[0, 1]` are clamped.
///
/// # Errors
///
/// Fails only if the device does.
pub fn unmap_pixels(mapped: &Tensor) -> Result<Tensor> {
    let scale = 1. / (1. - 2. * LOGIT_LAPLACE_EPS);
    Ok(mapped
        .affine(scale, -LOGIT_LAPLACE_EPS * scale)?
        .clamp(0f32, 1f32)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn mapping_is_inverted_and_clamped() {
        let images = Tensor::new(&[0f32, 0.25, 1.], &Device::Cpu).unwrap();
        let images = images.reshape((1, 1, 1, 3)).unwrap();
        let mapped = map_pixels(&images).unwrap();
        let flat = |xs: Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (got, want) in flat(mapped.clone()).iter().zip([0.1, 0.3, 0.9]) {
            assert!((got - want).abs() < 1e-6);
        }
        for (got, want) in flat(unmap_pixels(&mapped).unwrap())
            .iter()
            .zip([0., 0.25, 1.])
        {
            assert!((got - want).abs() < 1e-6);
        }
        let outside = Tensor::new(&[0f32, 1.], &Device::Cpu).unwrap();
        assert_eq!(flat(unmap_pixels(&outside).unwrap()), [0., 1.]);
    }

    #[test]
    fn mismatched_sizes_are_named() {
        let weights = |vocab: usize, width: usize| {
            let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
            let all = [
                ("encoder.blocks.input.weight", zeros(&[width, 3, 7, 7])),
                (
                    "encoder.blocks.output.conv.weight",
                    zeros(&[vocab, 8, 1, 1]),
                ),
            ];
            all.map(|(name, tensor)| (name.to_owned(), tensor))
                .into_iter()
                .collect::<WeightMap>()
        };
        let config = DvaeConfig {
            n_hid: 4,
            vocab_size: 9,
            ..DvaeConfig::default()
        };
        assert!(config.check_weights(&weights(9, 4)).is_ok());
        for (vocab, width, wanted) in [
            (7, 4, "set target.network.vocab_size = 7"),
            (9, 8, "set target.network.n_hid = 8"),
        ] {
            let error = config.check_weights(&weights(vocab, width)).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    #[test]
    fn refuses_other_images_and_settings() {
        let bytes = Tensor::zeros((1, 3, 8, 8), DType::U8, &Device::Cpu).unwrap();
        let error = map_pixels(&bytes).unwrap_err().to_string();
        assert!(error.contains("without normalisation"), "{error}");
        let flat = Tensor::zeros((3, 8, 8), DType::F32, &Device::Cpu).unwrap();
        assert!(map_pixels(&flat).is_err());
        for (field, config) in [
            (
                "`n_hid` is 6",
                DvaeConfig {
                    n_hid: 6,
                    ..DvaeConfig::default()
                },
            ),
            (
                "`vocab_size` is 0",
                DvaeConfig {
                    vocab_size: 0,
                    ..DvaeConfig::default()
                },
            ),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
