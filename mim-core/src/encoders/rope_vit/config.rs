//! Settings of the vision transformer with rotary positions.

use serde::{Deserialize, Serialize};

use super::RopeVit;
use crate::encoders::EncoderSettings;
use crate::nn::{Coordinates, RopeBlockConfig};
use crate::params::Params;
use crate::parts::Part;
use crate::{Encoder, Error, ImageSize, MaskMode, PatchGrid, Result};

/// Coordinates of registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisterCoordinates {
    /// Around the border, with the same number on each side.
    #[default]
    Edge,
    /// In the first corner.
    Zeros,
}

/// Settings of [`RopeVit`](super::RopeVit); `Default` is CAPI's ViT-L/14.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RopeVitConfig {
    /// Height and width of the images in pixels; multiples of `patch_size`. Other sizes are accepted, too. Default 224.
    pub image_size: ImageSize,
    /// Side of a patch in pixels. Default 14.
    pub patch_size: usize,
    /// Channels of the images: 3 for RGB, 1 for grey. Default 3.
    pub in_channels: usize,
    /// Width of the tokens; a multiple of 4 times `num_heads`. Default 1024.
    pub embed_dim: usize,
    /// Number of blocks. Default 24.
    pub depth: usize,
    /// Attention heads. Default 16.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of `embed_dim`. Default 4.
    pub mlp_ratio: f64,
    /// Epsilon of all norms. Default 1e-5.
    pub norm_eps: f64,
    /// Register tokens, which come before the patches. Default 16.
    pub num_registers: usize,
    /// Coordinates of the registers. Default `edge`.
    pub register_coordinates: RegisterCoordinates,
    /// Whether their coordinates refer to the bounding box of the visible patches. Default true.
    pub scale_registers: bool,
    /// Stochastic depth rate of all blocks. Default 0.2.
    pub drop_path_rate: f64,
    /// Largest frequency of the positions, in turns over the image. Default 7.
    pub max_freq: f64,
    /// Smallest frequency. Default 7e-4.
    pub min_freq: f64,
}

impl Default for RopeVitConfig {
    fn default() -> Self {
        Self {
            image_size: 224.into(),
            patch_size: 14,
            in_channels: 3,
            embed_dim: 1024,
            depth: 24,
            num_heads: 16,
            mlp_ratio: 4.,
            norm_eps: 1e-5,
            num_registers: 16,
            register_coordinates: RegisterCoordinates::Edge,
            scale_registers: true,
            drop_path_rate: 0.2,
            max_freq: 7.,
            min_freq: 7e-4,
        }
    }
}

impl RopeVitConfig {
    /// The token grid.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a side is not a multiple of the patch size.
    pub fn grid(&self) -> Result<PatchGrid> {
        PatchGrid::of_image(self.image_size.into(), self.patch_size)
    }

    /// Checks ranges and how settings depend on each other.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        self.grid()?;
        for (field, value) in [("depth", self.depth), ("in_channels", self.in_channels)] {
            if value == 0 {
                let (why, fix) = ("it must be at least 1", "use 1 or more");
                return Err(Error::config("rope_vit", field, 0, why, fix));
            }
        }
        self.block().validate("rope_vit")
    }

    /// The settings of the blocks.
    pub fn block(&self) -> RopeBlockConfig {
        RopeBlockConfig {
            dim: self.embed_dim,
            context_dim: None,
            num_heads: self.num_heads,
            mlp_ratio: self.mlp_ratio,
            norm_eps: self.norm_eps,
            drop_path: self.drop_path_rate,
            freqs: (self.max_freq, self.min_freq),
        }
    }

    pub(super) fn coordinates(&self) -> Result<Coordinates> {
        let edge = self.register_coordinates == RegisterCoordinates::Edge;
        Coordinates::new(self.num_registers, edge, self.scale_registers)
    }
}

impl Part for RopeVitConfig {
    const ABOUT: &'static str = "a vision transformer with rotary positions and registers";
    const PAPER: &'static str =
        "CAPI: Darcet et al., TMLR 2025, arXiv 2502.08769; facebookresearch/capi @ 98b4fa1";
    const SMALL: &'static str = r#"
image_size = 32
patch_size = 4
embed_dim = 128
depth = 4
num_heads = 4
num_registers = 4
drop_path_rate = 0.0
"#;
}

impl EncoderSettings for RopeVitConfig {
    fn build(&self, params: &Params) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(RopeVit::new(params, self)?))
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

    fn hiding(&self) -> MaskMode {
        MaskMode::Drop
    }
}
