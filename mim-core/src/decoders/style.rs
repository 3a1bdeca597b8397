//! Generates images from maps and a style.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::nn::{Linear, StyledConv, doubled};
use crate::params::Params;
use crate::{Error, Result};

const NAME: &str = "style decoder";
/// Minimum number of channels on a level.
const FEWEST: usize = 8;

/// Sizes of [`StyleDecoder`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StyleDecoderConfig {
    /// Channels of the coarsest level; each finer level has half as many, but at least 8. Default 256.
    pub embed_dim: usize,
    /// Width of the style. Default 256.
    pub style_dim: usize,
    /// Layers that compute the style from a token. Default 2.
    pub style_depth: usize,
}

impl Default for StyleDecoderConfig {
    fn default() -> Self {
        Self {
            embed_dim: 256,
            style_dim: 256,
            style_depth: 2,
        }
    }
}

/// Input and output sizes of a [`StyleDecoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StyleShape {
    /// Number of maps.
    pub maps: usize,
    /// Width of the token that the style is computed from.
    pub token_dim: usize,
    /// Side of a map cell in pixels; a power of two.
    pub cell: usize,
    /// Channels of the image.
    pub channels: usize,
}

/// Generates an image: maps say where things are, and a token, as the style of all layers, says how they look.
///
/// It follows StyleGAN's generator (Karras et al., CVPR 2019): style-normalised layers, with the size doubled between
/// them, but without noise and discriminator. SemMAE learns parts with it (Li et al., NeurIPS 2022, figure 2).
#[derive(Debug, Clone)]
pub struct StyleDecoder {
    mapping: Vec<Linear>,
    levels: Vec<StyledConv>,
    output: Linear,
}

impl StyleDecoder {
    /// Parameters `mapping.I`, `levels.I`, `output`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a width is 0 or the cell size is not a power of two.
    pub fn new(params: &Params, config: &StyleDecoderConfig, shape: StyleShape) -> Result<Self> {
        let sizes = [
            ("embed_dim", config.embed_dim),
            ("style_dim", config.style_dim),
            ("style_depth", config.style_depth),
        ];
        for (field, value) in sizes {
            if value == 0 {
                let (why, fix) = ("it must be positive", "remove it to use the default");
                return Err(Error::config(NAME, field, value, why, fix));
            }
        }
        if !shape.cell.is_power_of_two() {
            let why = "each level of the decoder doubles the size";
            let fix = "use patches of 4, 8, 16 or 32 pixels";
            return Err(Error::config(NAME, "patch_size", shape.cell, why, fix));
        }
        let mapping = (0..config.style_depth).map(|index| {
            let inputs = match index {
                0 => shape.token_dim,
                _ => config.style_dim,
            };
            Linear::new(&params.pp("mapping").pp(index), inputs, config.style_dim)
        });
        let width = |level: u32| (config.embed_dim >> level).max(FEWEST);
        let finest = shape.cell.ilog2();
        let levels = (0..=finest).map(|level| {
            let inputs = match level {
                0 => shape.maps,
                _ => width(level - 1),
            };
            let params = params.pp("levels").pp(level);
            StyledConv::new(&params, inputs, width(level), config.style_dim)
        });
        Ok(Self {
            mapping: mapping.collect::<Result<_>>()?,
            levels: levels.collect::<Result<_>>()?,
            output: Linear::new(&params.pp("output"), width(finest), shape.channels)?,
        })
    }

    /// Generates images `[batch, channels, rows * cell, cols * cell]` from maps `[batch, rows, cols, maps]` and tokens
    /// `[batch, token_dim]`.
    ///
    /// # Errors
    ///
    /// If maps or tokens have another shape.
    pub fn decode(&self, maps: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let mut style = tokens.clone();
        for layer in &self.mapping {
            style = layer.forward_gelu(&style)?;
        }
        let mut xs = maps.clone();
        for (index, level) in self.levels.iter().enumerate() {
            if index > 0 {
                xs = doubled(&xs)?;
            }
            xs = level.forward(&xs, &style)?;
        }
        let pixels = self.output.forward(&xs)?;
        Ok(pixels.permute((0, 3, 1, 2))?.contiguous()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    const SHAPE: StyleShape = StyleShape {
        maps: 3,
        token_dim: 5,
        cell: 4,
        channels: 2,
    };

    fn small() -> StyleDecoderConfig {
        StyleDecoderConfig {
            embed_dim: 12,
            style_dim: 6,
            style_depth: 2,
        }
    }

    #[test]
    fn gradients_reach_every_parameter() {
        let store = ParamStore::cpu(1);
        let decoder = StyleDecoder::new(&store.root(), &small(), SHAPE).unwrap();
        let (maps, tokens) = (noise(&[2, 2, 3, 3], 1), noise(&[2, 5], 2));
        let images = decoder.decode(&maps, &tokens).unwrap();
        assert_eq!(images.dims(), [2, 2, 8, 12]);
        let loss = (images - noise(&[2, 2, 8, 12], 3)).unwrap().sqr().unwrap();
        let gradients = loss.mean_all().unwrap().backward().unwrap();
        for (name, var) in store.trainable() {
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name}"));
            let largest = gradient.abs().unwrap().flatten_all().unwrap().max(0);
            assert!(
                largest.unwrap().to_scalar::<f32>().unwrap() > 1e-8,
                "{name}"
            );
        }
    }

    #[test]
    fn sizes_that_cannot_be_doubled_are_refused() {
        let store = ParamStore::cpu(1);
        let shape = StyleShape { cell: 14, ..SHAPE };
        let error = StyleDecoder::new(&store.root(), &small(), shape).unwrap_err();
        assert!(error.to_string().contains("`patch_size` is 14"), "{error}");
        let none = StyleDecoderConfig {
            style_depth: 0,
            ..small()
        };
        let error = StyleDecoder::new(&store.root(), &none, SHAPE).unwrap_err();
        assert!(error.to_string().contains("`style_depth` is 0"), "{error}");
    }
}
