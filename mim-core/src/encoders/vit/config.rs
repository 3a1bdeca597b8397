//! Settings of the plain vision transformer.

use serde::{Deserialize, Serialize};

use super::Vit;
use crate::encoders::EncoderSettings;
use crate::nn::{Activation, BlockConfig, NormKind, PosEmbedKind, QkvBias};
use crate::params::Params;
use crate::parts::Part;
use crate::{Encoder, Error, ImageSize, PatchGrid, Result};

/// Relative position bias of the attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelPosBiasKind {
    /// None.
    #[default]
    None,
    /// All blocks share one table.
    Shared,
    /// Each block has its own table.
    PerBlock,
    /// Each block adds a shared table and its own.
    Both,
}

impl RelPosBiasKind {
    /// Whether all blocks share a table.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Shared | Self::Both)
    }

    /// Whether each block has its own table.
    pub fn is_per_block(self) -> bool {
        matches!(self, Self::PerBlock | Self::Both)
    }
}

/// Settings of [`Vit`](super::Vit); `Default` is ViT-B/16 as MAE pre-trains it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VitConfig {
    /// Height and width of the images in pixels; multiples of `patch_size`. Default 224.
    ///
    /// With fixed positions, or none, the network accepts other sizes too; methods request this one.
    pub image_size: ImageSize,
    /// Whether images of other sizes are accepted; their positions are resized from those of
    /// `image_size` (DINO's rule). Default false.
    pub any_size: bool,
    /// Whether positions for other image sizes, also fixed ones, are resized from those of `image_size` (bicubic).
    /// Default false: fixed ones are recomputed.
    pub resize_positions: bool,
    /// Side of a patch in pixels. Default 16.
    pub patch_size: usize,
    /// Channels of the images: 3 for RGB, 1 for grey. Default 3.
    pub in_channels: usize,
    /// Width of the tokens; a multiple of `num_heads`. Default 768.
    pub embed_dim: usize,
    /// Number of blocks. Default 12.
    pub depth: usize,
    /// Attention heads. Default 12.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of `embed_dim`. Default 4.
    pub mlp_ratio: f64,
    /// Biases of query, key and value. Default `full`.
    pub qkv_bias: QkvBias,
    /// Epsilon of all norms. Default 1e-6.
    pub norm_eps: f64,
    /// Initial layer scale; none (the default) for no layer scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_scale_init: Option<f64>,
    /// Stochastic depth rate of the last block, rising linearly from 0. Default 0.
    pub drop_path_rate: f64,
    /// Dropout rate of the attention weights in training. Default 0.
    pub attn_drop_rate: f64,
    /// Positions added to the tokens. Default `sincos`.
    pub pos_embed: PosEmbedKind,
    /// Relative position bias of the attention. Default `none`.
    pub rel_pos_bias: RelPosBiasKind,
    /// Whether the class token enters the blocks; its parameter exists either way. Default true.
    pub class_token: bool,
    /// Number of class tokens, each with its own row in the position table. Pixio has several; I-JEPA has none, and no
    /// parameter for them. Default 1.
    pub num_class_tokens: usize,
    /// Whether a norm follows the last block. Default true.
    pub final_norm: bool,
    /// Whether a trained mask token can replace hidden patches. Default false.
    pub mask_token: bool,
    /// Non-linearity in a block's MLP. Default `gelu`.
    pub activation: Activation,
    /// Whether the patch embedding has a bias. Default true; CLIP's has none.
    pub patch_bias: bool,
    /// Whether a norm precedes the first block (CLIP). Default false.
    pub norm_pre: bool,
    /// Width of a projection of all tokens after the final norm, without bias (CLIP); `None` (the
    /// default) for no projection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection_dim: Option<usize>,
}

impl Default for VitConfig {
    fn default() -> Self {
        Self {
            image_size: 224.into(),
            any_size: false,
            resize_positions: false,
            patch_size: 16,
            in_channels: 3,
            embed_dim: 768,
            depth: 12,
            num_heads: 12,
            mlp_ratio: 4.,
            qkv_bias: QkvBias::Full,
            norm_eps: 1e-6,
            layer_scale_init: None,
            drop_path_rate: 0.,
            attn_drop_rate: 0.,
            pos_embed: PosEmbedKind::Sincos,
            rel_pos_bias: RelPosBiasKind::None,
            class_token: true,
            num_class_tokens: 1,
            final_norm: true,
            mask_token: false,
            activation: Activation::Gelu,
            patch_bias: true,
            norm_pre: false,
            projection_dim: None,
        }
    }
}

/// The field's sizes: (name, patch, dim, depth, heads).
const ARCHS: &[(&str, usize, usize, usize, usize)] = &[
    ("vit_tiny", 16, 192, 12, 3),
    ("vit_small", 16, 384, 12, 6),
    ("vit_base", 16, 768, 12, 12),
    ("vit_large", 16, 1024, 24, 16),
    ("vit_huge", 14, 1280, 32, 16),
];

impl VitConfig {
    /// The size called `arch`: `vit_tiny`, `vit_small`, `vit_base`, `vit_large` or `vit_huge`.
    ///
    /// Widths, depths and heads of DeiT (tiny, small) and of Dosovitskiy et al., 2021, table 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] listing the known sizes.
    pub fn arch(arch: &str) -> Result<Self> {
        let found = ARCHS.iter().find(|(name, ..)| *name == arch);
        let &(_, patch_size, embed_dim, depth, num_heads) = found.ok_or_else(|| {
            let known: Vec<_> = Self::archs().collect();
            Error::config(
                "vit",
                "arch",
                arch,
                "it is not a known size",
                format!("use one of {}", known.join(", ")),
            )
        })?;
        Ok(Self {
            patch_size,
            embed_dim,
            depth,
            num_heads,
            ..Self::default()
        })
    }

    /// A small size for images of 32 pixels, used by recipes that end in `_32px`.
    pub fn small() -> Self {
        Self {
            image_size: 32.into(),
            patch_size: 4,
            embed_dim: 128,
            depth: 4,
            num_heads: 4,
            ..Self::default()
        }
    }

    /// Width of the output tokens.
    pub fn output_dim(&self) -> usize {
        self.projection_dim.unwrap_or(self.embed_dim)
    }

    /// The names [`VitConfig::arch`] knows.
    pub fn archs() -> impl Iterator<Item = &'static str> {
        ARCHS.iter().map(|(name, ..)| *name)
    }

    /// Number of class tokens that enter the blocks.
    pub fn prefix(&self) -> usize {
        if self.class_token {
            self.num_class_tokens
        } else {
            0
        }
    }

    /// The token grid.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a side is not a multiple of the patch size.
    pub fn grid(&self) -> Result<PatchGrid> {
        PatchGrid::of_image(self.image_size.into(), self.patch_size)
    }

    /// Pixel values per patch.
    pub fn patch_values(&self) -> usize {
        self.patch_size * self.patch_size * self.in_channels
    }

    pub(crate) fn block(&self, index: usize) -> BlockConfig {
        let last = (self.depth - 1).max(1) as f64;
        BlockConfig {
            dim: self.embed_dim,
            num_heads: self.num_heads,
            mlp_ratio: self.mlp_ratio,
            qkv_bias: self.qkv_bias,
            norm: NormKind::LayerNorm,
            norm_eps: self.norm_eps,
            layer_scale_init: self.layer_scale_init,
            drop_path: self.drop_path_rate * index as f64 / last,
        }
    }
}

impl Part for VitConfig {
    const ABOUT: &'static str = "a plain vision transformer";
    const PAPER: &'static str = "Dosovitskiy et al., ICLR 2021, arXiv 2010.11929";
    const SMALL: &'static str = r#"
image_size = 32
patch_size = 4
embed_dim = 128
depth = 4
num_heads = 4
"#;
    const FOLLOWS: &'static [&'static str] = &["mask_token"];
}

impl EncoderSettings for VitConfig {
    fn build(&self, params: &Params) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(Vit::new(params, self)?))
    }

    fn image_size(&self) -> ImageSize {
        self.image_size
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn patch_size(&self) -> usize {
        self.patch_size
    }

    fn dim(&self) -> usize {
        self.embed_dim
    }

    fn can_replace(&self) -> bool {
        true
    }

    fn set_mask_token(&mut self, wanted: bool) {
        self.mask_token = wanted;
    }

    fn any_size(&self) -> bool {
        (self.any_size || self.resize_positions || self.pos_embed != PosEmbedKind::Learned)
            && self.rel_pos_bias == RelPosBiasKind::None
    }
}
