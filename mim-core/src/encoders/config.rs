//! Any of the encoders, as a setting.

use serde::{Deserialize, Serialize};

use super::{
    ConvMae, ConvMaeConfig, ConvMaeInit, PvtV2, PvtV2Config, RelPosBiasKind, Swin, SwinConfig, Vit,
    VitConfig,
};
use crate::nn::PosEmbedKind;
use crate::params::{Init, InitScheme, Params};
use crate::{Encoder, ImageSize, PatchGrid, Result};

/// Settings of an encoder, told apart by `type`.
///
/// ```toml
/// [encoder]
/// type = "swin"
/// image_size = 192
/// window_size = 6
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EncoderConfig {
    /// A plain vision transformer.
    Vit(VitConfig),
    /// A Swin transformer.
    Swin(SwinConfig),
    /// A pyramid vision transformer, second version.
    PvtV2(PvtV2Config),
    /// ConvMAE's hybrid of masked convolutions and a transformer.
    ConvMae(ConvMaeConfig),
}

impl From<VitConfig> for EncoderConfig {
    fn from(config: VitConfig) -> Self {
        Self::Vit(config)
    }
}

impl From<SwinConfig> for EncoderConfig {
    fn from(config: SwinConfig) -> Self {
        Self::Swin(config)
    }
}

impl From<PvtV2Config> for EncoderConfig {
    fn from(config: PvtV2Config) -> Self {
        Self::PvtV2(config)
    }
}

impl From<ConvMaeConfig> for EncoderConfig {
    fn from(config: ConvMaeConfig) -> Self {
        Self::ConvMae(config)
    }
}

impl EncoderConfig {
    /// Checks the settings and builds the encoder under `params`.
    ///
    /// # Errors
    ///
    /// [`crate::Error::InvalidConfig`] if a setting does not hold.
    pub fn build(&self, params: &Params) -> Result<Box<dyn Encoder>> {
        Ok(match self {
            Self::Vit(config) => Box::new(Vit::new(params, config)?),
            Self::Swin(config) => Box::new(Swin::new(params, config)?),
            Self::PvtV2(config) => Box::new(PvtV2::new(params, config)?),
            Self::ConvMae(config) => Box::new(ConvMae::new(params, config)?),
        })
    }

    /// Whether a trained token can stand for hidden patches.
    pub fn can_replace(&self) -> bool {
        matches!(self, Self::Vit(_) | Self::Swin(_))
    }

    /// Gives it the token for hidden patches, or takes it away; nothing for encoders that have none.
    pub fn set_mask_token(&mut self, wanted: bool) {
        match self {
            Self::Vit(config) => config.mask_token = wanted,
            Self::Swin(config) => config.mask_token = wanted,
            Self::PvtV2(_) | Self::ConvMae(_) => {}
        }
    }

    /// Whether its weights, as they are, fit images of other sizes.
    pub fn any_size(&self) -> bool {
        match self {
            Self::Vit(config) => {
                (config.any_size || config.pos_embed != PosEmbedKind::Learned)
                    && config.rel_pos_bias == RelPosBiasKind::None
            }
            Self::Swin(_) | Self::PvtV2(_) | Self::ConvMae(_) => true,
        }
    }

    /// How its authors start its weights; for a ViT, where methods differ, as `vit` says.
    pub fn init(&self, vit: Init) -> Box<dyn InitScheme> {
        let values = self.patch_values();
        match self {
            Self::Vit(_) => vit.build(values),
            Self::Swin(_) => Init::Swin.build(values),
            Self::PvtV2(_) => Init::PvtV2.build(values),
            Self::ConvMae(config) => Box::new(ConvMaeInit(config.clone())),
        }
    }

    /// Height and width of the images in pixels.
    pub fn image_size(&self) -> ImageSize {
        match self {
            Self::Vit(config) => config.image_size,
            Self::Swin(config) => config.image_size,
            Self::PvtV2(config) => config.image_size,
            Self::ConvMae(config) => config.image_size,
        }
    }

    /// Channels of the images.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::Vit(config) => config.in_channels,
            Self::Swin(config) => config.in_channels,
            Self::PvtV2(config) => config.in_channels,
            Self::ConvMae(config) => config.in_channels,
        }
    }

    /// Side in pixels of a patch, of which the first tokens are made.
    pub fn patch_size(&self) -> usize {
        match self {
            Self::Vit(config) => config.patch_size,
            Self::Swin(config) => config.patch_size,
            Self::PvtV2(config) => config.patch_size,
            Self::ConvMae(config) => config.patch_sizes[0],
        }
    }

    /// Side in pixels of what one token of the output stands for.
    pub fn output_stride(&self) -> usize {
        match self {
            Self::Vit(config) => config.patch_size,
            Self::Swin(config) => config.output_stride(),
            Self::PvtV2(config) => config.output_stride(),
            Self::ConvMae(config) => config.stride(),
        }
    }

    /// Width of the output's tokens.
    pub fn dim(&self) -> usize {
        match self {
            Self::Vit(config) => config.embed_dim,
            Self::Swin(config) => config.dim(),
            Self::PvtV2(config) => config.dim(),
            Self::ConvMae(config) => config.dim(),
        }
    }

    /// Numbers in a patch, as [`crate::params::Init::build`] wants them.
    pub fn patch_values(&self) -> usize {
        self.patch_size() * self.patch_size() * self.in_channels()
    }

    /// The output's token grid.
    ///
    /// # Errors
    ///
    /// [`crate::Error::InvalidConfig`] if a side is not a multiple of the output stride.
    pub fn grid(&self) -> Result<PatchGrid> {
        PatchGrid::of_image(self.image_size().into(), self.output_stride())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;

    #[test]
    fn the_type_chooses_and_unknown_keys_are_refused() {
        let read = |text: &str| toml::from_str::<EncoderConfig>(text);
        let swin = read("type = \"swin\"\nembed_dim = 24\nnum_heads = [3, 6, 12, 24]").unwrap();
        assert_eq!(
            (swin.dim(), swin.output_stride(), swin.patch_size()),
            (192, 32, 4)
        );
        assert_eq!(swin.grid().unwrap(), PatchGrid::new(6, 6));
        let vit = read("type = \"vit\"\nin_channels = 1").unwrap();
        assert_eq!(
            (vit.dim(), vit.output_stride(), vit.patch_values()),
            (768, 16, 256)
        );
        let pvt = read("type = \"pvt_v2\"\nimage_size = 64").unwrap();
        assert_eq!(
            (pvt.dim(), pvt.output_stride(), pvt.patch_size()),
            (512, 32, 4)
        );
        let hybrid = read("type = \"conv_mae\"\nmlp_ratios = [8.0, 8.0, 4.0]").unwrap();
        assert_eq!(
            (hybrid.dim(), hybrid.output_stride(), hybrid.patch_size()),
            (768, 16, 4)
        );
        for bad in [
            "type = \"vit\"\nwindow_size = 7",
            "type = \"resnet\"",
            "embed_dim = 8",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let text = toml::to_string(&swin).unwrap();
        assert_eq!(read(&text).unwrap(), swin);
    }

    #[test]
    fn builds_what_it_says() {
        let config = EncoderConfig::from(SwinConfig {
            image_size: 16.into(),
            embed_dim: 4,
            depths: vec![1, 1],
            num_heads: vec![1, 2],
            window_size: 2,
            ..SwinConfig::default()
        });
        let encoder = config.build(&ParamStore::cpu(0).root()).unwrap();
        assert_eq!(encoder.dim(), config.dim());
        assert_eq!(encoder.grid((16, 16)).unwrap(), config.grid().unwrap());
    }
}
