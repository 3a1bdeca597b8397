//! Settings of the convolution-transformer encoder.

use serde::{Deserialize, Serialize};

use super::{ConvMae, ConvMaeInit};
use crate::encoders::EncoderSettings;
use crate::nn::{BlockConfig, NormKind, QkvBias};
use crate::params::{Init, InitScheme, Params};
use crate::parts::Part;
use crate::{Encoder, Error, ImageSize, MaskMode, PatchGrid, Result};

/// Settings of [`ConvMae`](super::ConvMae); `Default` is ConvMAE base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvMaeConfig {
    /// Height and width of the images in pixels; multiples of the total stride. Default 224.
    pub image_size: ImageSize,
    /// Channels of the images. Default 3.
    pub in_channels: usize,
    /// Stride of each stage relative to the previous one. Default 4, 2, 2: a total stride of 16.
    pub patch_sizes: [usize; 3],
    /// Width of each stage; the last one must be a multiple of `num_heads` and of 4. Default 256, 384, 768.
    pub embed_dims: [usize; 3],
    /// Blocks of each stage. Default 2, 2, 11.
    pub depths: [usize; 3],
    /// Attention heads of the last stage. Default 12.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of the stage's width. Default 4, 4, 4.
    pub mlp_ratios: [f64; 3],
    /// Epsilon of the transformer's norms. Default 1e-6.
    pub norm_eps: f64,
    /// Epsilon of the norms of convolution blocks and patch embeddings. Default 1e-5.
    pub conv_norm_eps: f64,
}

impl Default for ConvMaeConfig {
    fn default() -> Self {
        Self {
            image_size: 224.into(),
            in_channels: 3,
            patch_sizes: [4, 2, 2],
            embed_dims: [256, 384, 768],
            depths: [2, 2, 11],
            num_heads: 12,
            mlp_ratios: [4.; 3],
            norm_eps: 1e-6,
            conv_norm_eps: 1e-5,
        }
    }
}

/// Known sizes: (name, widths, depths, heads).
const ARCHS: &[(&str, [usize; 3], [usize; 3], usize)] = &[
    ("convmae_tiny", [64, 128, 192], [2, 2, 9], 3),
    ("convmae_small", [128, 256, 384], [2, 2, 11], 6),
    ("convmae_base", [256, 384, 768], [2, 2, 11], 12),
    ("convmae_large", [384, 768, 1024], [2, 2, 23], 16),
];

impl ConvMaeConfig {
    /// The names [`ConvMaeConfig::arch`] knows.
    pub fn archs() -> impl Iterator<Item = &'static str> {
        ARCHS.iter().map(|(name, ..)| *name)
    }

    /// The size called `arch`: `convmae_tiny`, `convmae_small`, `convmae_base` or `convmae_large`.
    ///
    /// Base is ConvMAE's and large is DMJD's; tiny and small have the widths of the ViTs with these names.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] listing the known sizes.
    pub fn arch(arch: &str) -> Result<Self> {
        let found = ARCHS.iter().find(|(name, ..)| *name == arch);
        let &(_, embed_dims, depths, num_heads) = found.ok_or_else(|| {
            let known: Vec<_> = ARCHS.iter().map(|(name, ..)| *name).collect();
            let fix = format!("use one of {}", known.join(", "));
            Error::config("conv_mae", "arch", arch, "it is not a known size", fix)
        })?;
        Ok(Self {
            embed_dims,
            depths,
            num_heads,
            ..Self::default()
        })
    }

    /// Side of a token in pixels.
    pub fn stride(&self) -> usize {
        self.patch_sizes.iter().product()
    }

    /// Number of pixel values per token.
    pub fn patch_values(&self) -> usize {
        self.stride() * self.stride() * self.in_channels
    }

    /// Width of the output.
    pub fn dim(&self) -> usize {
        self.embed_dims[2]
    }

    /// Hidden width of the MLPs of a stage (0, 1 or 2).
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a layer's width"
    )]
    pub fn hidden_dim(&self, stage: usize) -> usize {
        (self.embed_dims[stage] as f64 * self.mlp_ratios[stage]) as usize
    }

    /// The token grid of the output.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a side is not a multiple of the stride.
    pub fn grid(&self) -> Result<PatchGrid> {
        PatchGrid::of_image(self.image_size.into(), self.stride())
    }

    /// Checks ranges and how settings depend on each other.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        self.grid()?;
        let hidden = |stage: usize| self.mlp_ratios[stage] * self.embed_dims[stage] as f64;
        let divides = self.num_heads > 0 && self.dim().is_multiple_of(self.num_heads);
        // (is valid, setting, value, why, fix)
        let rules: [(bool, &'static str, String, &'static str, &'static str); 5] = [
            (
                self.in_channels > 0,
                "in_channels",
                self.in_channels.to_string(),
                "images have at least one channel",
                "use 1 (grey) or 3 (RGB)",
            ),
            (
                self.depths[2] > 0,
                "depths",
                format!("{:?}", self.depths),
                "the last stage has at least one block",
                "use 2, 2, 11",
            ),
            (
                divides,
                "num_heads",
                self.num_heads.to_string(),
                "the last of embed_dims must be a multiple of it",
                "change num_heads or embed_dims",
            ),
            (
                self.norm_eps > 0. && self.conv_norm_eps > 0.,
                "norm_eps, conv_norm_eps",
                format!("{}, {}", self.norm_eps, self.conv_norm_eps),
                "both must be positive",
                "use 1e-6 and 1e-5",
            ),
            (
                (0..3).all(|stage| hidden(stage) >= 1.),
                "mlp_ratios",
                format!("{:?}", self.mlp_ratios),
                "a hidden layer would be empty",
                "use 4",
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, value, why, fix)) => {
                Err(Error::config("conv_mae", field, value, why, fix))
            }
            None => Ok(()),
        }
    }

    /// The transformer blocks of the last stage.
    pub(super) fn block(&self) -> BlockConfig {
        BlockConfig {
            dim: self.dim(),
            num_heads: self.num_heads,
            mlp_ratio: self.mlp_ratios[2],
            qkv_bias: QkvBias::Full,
            norm: NormKind::LayerNorm,
            norm_eps: self.norm_eps,
            layer_scale_init: None,
            drop_path: 0.,
        }
    }
}

impl Part for ConvMaeConfig {
    const ABOUT: &'static str = "masked convolutions in two stages, then a transformer";
    const PAPER: &'static str =
        "ConvMAE: Gao et al., NeurIPS 2022, arXiv 2205.03892; Alpha-VL/ConvMAE @ 4c97b4c";
    const SMALL: &'static str = r#"
image_size = 32
patch_sizes = [2, 2, 1]
embed_dims = [32, 64, 128]
depths = [1, 1, 3]
num_heads = 4
"#;
}

impl EncoderSettings for ConvMaeConfig {
    fn build(&self, params: &Params) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(ConvMae::new(params, self)?))
    }

    fn image_size(&self) -> ImageSize {
        self.image_size
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn patch_size(&self) -> usize {
        self.patch_sizes[0]
    }

    fn output_stride(&self) -> usize {
        self.stride()
    }

    fn dim(&self) -> usize {
        self.dim()
    }

    fn hiding(&self) -> MaskMode {
        MaskMode::Drop
    }

    fn init(&self, _method: Init) -> Box<dyn InitScheme> {
        Box::new(ConvMaeInit(self.clone()))
    }
}
