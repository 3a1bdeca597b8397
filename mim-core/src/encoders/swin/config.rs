//! Settings of the Swin transformer.

use serde::{Deserialize, Serialize};

use super::Swin;
use crate::encoders::EncoderSettings;
use crate::nn::{BlockConfig, NormKind, QkvBias};
use crate::params::{Init, InitScheme, Params};
use crate::parts::Part;
use crate::{Encoder, Error, ImageSize, PatchGrid, Result};

/// Settings of [`Swin`](super::Swin); `Default` is Swin-B as SimMIM pre-trains it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwinConfig {
    /// Height and width of the images in pixels. Default 192.
    ///
    /// Without `pad`, the grid of every stage must divide into whole windows. Multiples of
    /// `patch_size * 2^(stages - 1) * window_size` always work.
    /// The network accepts other sizes whose stages divide into whole windows of the same sides.
    pub image_size: ImageSize,
    /// Whether to pad grids with zeros to whole windows and even sides. Then images of any
    /// size work if their sides are multiples of `patch_size`; window sizes are those for `image_size`.
    /// Default false.
    pub pad: bool,
    /// Side of a patch of the first stage in pixels. Default 4.
    pub patch_size: usize,
    /// Channels of the images: 3 for RGB, 1 for grey. Default 3.
    pub in_channels: usize,
    /// Width of the first stage's tokens; it doubles with every stage. Default 128.
    pub embed_dim: usize,
    /// Blocks of each stage. Default 2, 2, 18, 2.
    pub depths: Vec<usize>,
    /// Attention heads of each stage. Default 4, 8, 16, 32.
    pub num_heads: Vec<usize>,
    /// Side of a window in tokens. A stage whose grid is not larger has a single window without shift. Default 6.
    pub window_size: usize,
    /// Hidden width of a block's MLP as a multiple of the stage's width. Default 4.
    pub mlp_ratio: f64,
    /// Biases of query, key and value. Default `full`.
    pub qkv_bias: QkvBias,
    /// Epsilon of all norms. Default 1e-5.
    pub norm_eps: f64,
    /// Stochastic depth rate of the last block, rising linearly from 0. Default 0.
    pub drop_path_rate: f64,
    /// Whether the embedded patches are normalised. Default true.
    pub patch_norm: bool,
    /// Whether a trained mask token can replace hidden patches. Default true.
    pub mask_token: bool,
}

impl Default for SwinConfig {
    fn default() -> Self {
        Self {
            image_size: 192.into(),
            pad: false,
            patch_size: 4,
            in_channels: 3,
            embed_dim: 128,
            depths: vec![2, 2, 18, 2],
            num_heads: vec![4, 8, 16, 32],
            window_size: 6,
            mlp_ratio: 4.,
            qkv_bias: QkvBias::Full,
            norm_eps: 1e-5,
            drop_path_rate: 0.,
            patch_norm: true,
            mask_token: true,
        }
    }
}

/// The field's sizes: (name, dim, blocks of the third stage, heads of the first stage, window).
const ARCHS: &[(&str, usize, usize, usize, usize)] = &[
    ("swin_tiny", 96, 6, 3, 6),
    ("swin_small", 96, 18, 3, 6),
    ("swin_base", 128, 18, 4, 6),
    ("swin_large", 192, 18, 6, 12),
];

impl SwinConfig {
    /// The size called `arch`: `swin_tiny`, `swin_small`, `swin_base` or `swin_large`.
    ///
    /// Widths, depths and heads follow Liu et al., ICCV 2021, Sec. 3.3. Images of 192 pixels and the
    /// windows are those of SimMIM's pre-training of base and large.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] listing the known sizes.
    pub fn arch(arch: &str) -> Result<Self> {
        let found = ARCHS.iter().find(|(name, ..)| *name == arch);
        let &(_, embed_dim, third, heads, window_size) = found.ok_or_else(|| {
            let known: Vec<_> = Self::archs().collect();
            Error::config(
                "swin",
                "arch",
                arch,
                "it is not a known size",
                format!("use one of {}", known.join(", ")),
            )
        })?;
        Ok(Self {
            embed_dim,
            depths: vec![2, 2, third, 2],
            num_heads: [1, 2, 4, 8].map(|factor| factor * heads).to_vec(),
            window_size,
            ..Self::default()
        })
    }

    /// The names [`SwinConfig::arch`] knows.
    pub fn archs() -> impl Iterator<Item = &'static str> {
        ARCHS.iter().map(|(name, ..)| *name)
    }

    /// Number of stages.
    pub fn stages(&self) -> usize {
        self.depths.len()
    }

    /// Width of the tokens of stage `stage`, from 0.
    pub fn stage_dim(&self, stage: usize) -> usize {
        self.embed_dim << stage
    }

    /// Width of the output tokens.
    pub fn dim(&self) -> usize {
        self.stage_dim(self.stages().saturating_sub(1))
    }

    /// Side in pixels covered by one output token.
    pub fn output_stride(&self) -> usize {
        self.patch_size << self.stages().saturating_sub(1)
    }

    /// The token grid of stage `stage`, from 0.
    ///
    /// # Errors
    ///
    /// As [`SwinConfig::grid_of`].
    pub fn stage_grid(&self, stage: usize) -> Result<PatchGrid> {
        self.grid_of(self.image_size.into(), stage)
    }

    /// The token grid of stage `stage`, from 0, for images of (height, width) pixels.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a side is not a multiple of the stage's stride or, with `pad`, of
    /// the patch size.
    pub fn grid_of(&self, image: (usize, usize), stage: usize) -> Result<PatchGrid> {
        if !self.pad {
            return PatchGrid::of_image(image, self.patch_size << stage);
        }
        let first = PatchGrid::of_image(image, self.patch_size)?;
        let merged = |length: usize| length.div_ceil(1 << stage);
        Ok(PatchGrid::new(merged(first.rows), merged(first.cols)))
    }

    /// Side of the windows of stage `stage`, and the shift of its odd blocks.
    ///
    /// # Errors
    ///
    /// As [`SwinConfig::stage_grid`].
    pub fn stage_window(&self, stage: usize) -> Result<(usize, usize)> {
        let grid = self.stage_grid(0)?;
        // Parity: on a padded grid, the window follows from the sides rounded down.
        let least = (grid.rows.min(grid.cols) >> stage).max(1);
        Ok(match least <= self.window_size {
            true => (least, 0),
            false => (self.window_size, self.window_size / 2),
        })
    }

    /// Settings of block number `index` in the network, in stage `stage`.
    pub(super) fn block(&self, stage: usize, index: usize) -> BlockConfig {
        let last = (self.depths.iter().sum::<usize>() - 1).max(1) as f64;
        BlockConfig {
            dim: self.stage_dim(stage),
            num_heads: self.num_heads[stage],
            mlp_ratio: self.mlp_ratio,
            qkv_bias: self.qkv_bias,
            norm: NormKind::LayerNorm,
            norm_eps: self.norm_eps,
            layer_scale_init: None,
            drop_path: self.drop_path_rate * index as f64 / last,
        }
    }
}

impl Part for SwinConfig {
    const ABOUT: &'static str = "a Swin transformer: shifted windows in several stages";
    const PAPER: &'static str = "Liu et al., ICCV 2021, arXiv 2103.14030";
    const SMALL: &'static str = r#"
image_size = 32
patch_size = 4
embed_dim = 64
depths = [2, 2]
num_heads = [4, 8]
window_size = 4
"#;
    const FOLLOWS: &'static [&'static str] = &["mask_token"];
}

impl EncoderSettings for SwinConfig {
    fn build(&self, params: &Params) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(Swin::new(params, self)?))
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

    fn output_stride(&self) -> usize {
        self.output_stride()
    }

    fn dim(&self) -> usize {
        self.dim()
    }

    fn can_replace(&self) -> bool {
        true
    }

    fn set_mask_token(&mut self, wanted: bool) {
        self.mask_token = wanted;
    }

    fn init(&self, _method: Init) -> Box<dyn InitScheme> {
        Init::Swin.build(EncoderSettings::patch_values(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_match_the_paper() {
        let base = SwinConfig::arch("swin_base").unwrap();
        assert_eq!(base, SwinConfig::default());
        let large = SwinConfig::arch("swin_large").unwrap();
        assert_eq!((large.dim(), large.output_stride()), (1536, 32));
        assert_eq!(large.num_heads, [6, 12, 24, 48]);
        let windows = |config: &SwinConfig| -> Vec<(usize, usize)> {
            (0..4)
                .map(|stage| config.stage_window(stage).unwrap())
                .collect()
        };
        assert_eq!(windows(&base), [(6, 3), (6, 3), (6, 3), (6, 0)]);
        assert_eq!(windows(&large), [(12, 6), (12, 6), (12, 0), (6, 0)]);
        for arch in SwinConfig::archs() {
            SwinConfig::arch(arch).unwrap().validate().unwrap();
        }
        let error = SwinConfig::arch("swin_huge").unwrap_err().to_string();
        assert!(error.contains("swin_large"), "{error}");
    }

    #[test]
    fn wide_images_work_if_every_stage_has_whole_windows() {
        let config = SwinConfig {
            image_size: ImageSize {
                height: 32,
                width: 64,
            },
            depths: vec![2, 1],
            num_heads: vec![4, 8],
            window_size: 4,
            ..SwinConfig::default()
        };
        config.validate().unwrap();
        assert_eq!(config.stage_grid(1).unwrap(), PatchGrid::new(4, 8));
        assert_eq!(config.stage_window(1).unwrap(), (4, 0));
    }
}
