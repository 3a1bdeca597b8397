//! Pixio: In Pursuit of Pixel Supervision for Visual Pre-training (arXiv 2512.15715).
//!
//! MAE with three changes: a deep decoder, masks of whole cells of patches, and several class tokens; positions are
//! trained. Reference: facebookresearch/pixio @ b83555d.

use mim_core::augment::{Augment, RandomResizedCrop, ViewPlan};
use mim_core::decoders::{DecoderShape, MaeDecoder, MaeDecoderConfig};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::objectives::RegressionConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, Result};
use mim_masking::{CellMaskerConfig, CellRounding};
use mim_targets::{PatchNorm, PixelTargetConfig};
use serde::{Deserialize, Serialize};

use crate::parity::golden::{Golden, MAE_DECODER, Masks, Output, Setting, VIT};
use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// A size: (name, dim, depth, heads).
type Size = (&'static str, usize, usize, usize);

const SIZES: [Size; 5] = [
    ("vit_base", 768, 12, 12),
    ("vit_large", 1024, 24, 16),
    ("vit_huge", 1280, 32, 16),
    ("vit_1b", 1536, 48, 24),
    ("vit_5b", 3072, 48, 32),
];

/// Settings of Pixio; `Default` is ViT-H/16 for images of 256 pixels as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PixioConfig {
    /// Fraction of cells dropped, in `[0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// Side of a cell in patches; it divides the patch grid. Default 4.
    pub mask_grid: usize,
    /// Whether each patch's pixels are normalised by their own mean and deviation. Default true.
    pub norm_pix_loss: bool,
    /// Initialisation of the weights. Default `pixio`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic), no flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default: 8 class tokens, trained positions, stochastic depth of 0.4.
    pub encoder: VitConfig,
    /// The decoder. Default: 32 blocks, trained positions.
    pub decoder: MaeDecoderConfig,
}

impl Default for PixioConfig {
    fn default() -> Self {
        Self::with_size(&SIZES[2])
    }
}

impl PixioConfig {
    fn with_size(&(_, embed_dim, depth, num_heads): &Size) -> Self {
        Self {
            mask_ratio: 0.75,
            mask_grid: 4,
            norm_pix_loss: true,
            init: Init::Pixio,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig {
                image_size: 256.into(),
                patch_size: 16,
                embed_dim,
                depth,
                num_heads,
                num_class_tokens: 8,
                pos_embed: PosEmbedKind::Learned,
                drop_path_rate: 0.4,
                ..VitConfig::default()
            },
            decoder: MaeDecoderConfig {
                depth: 32,
                pos_embed: PosEmbedKind::Learned,
                ..MaeDecoderConfig::default()
            },
        }
    }

    /// Settings of the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the cells do not tile the patch grid.
    pub(crate) fn masker(&self) -> Result<CellMaskerConfig> {
        let (grid, side) = (self.encoder.grid()?, self.mask_grid);
        if side == 0 || !grid.rows.is_multiple_of(side) || !grid.cols.is_multiple_of(side) {
            let why = format!("cells of this side do not tile a grid of {grid}");
            let fix = "use a divisor of both sides of the grid, or another image_size";
            return Err(Error::config("pixio", "mask_grid", side, why, fix));
        }
        Ok(CellMaskerConfig {
            mask_patch_size: side * self.encoder.patch_size,
            patch_size: self.encoder.patch_size,
            mask_ratio: self.mask_ratio,
            rounding: CellRounding::VisibleDown,
        })
    }

    fn plan(&self) -> ViewPlan {
        self.views.clone().unwrap_or_else(|| {
            let size = <(usize, usize)>::from(self.encoder.image_size);
            ViewPlan::single(vec![Augment::RandomResizedCrop(RandomResizedCrop {
                size: size.into(),
                ..RandomResizedCrop::default()
            })])
        })
    }
}

impl MethodConfig for PixioConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        let found = SIZES.iter().find(|(name, ..)| *name == arch);
        let size = found.ok_or_else(|| {
            let names = SIZES.map(|(name, ..)| name).join(", ");
            let (why, fix) = ("it is not a known size", format!("use one of {names}"));
            Error::config("pixio", "arch", arch, why, fix)
        })?;
        Ok(Self::with_size(size))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.norm.check(self.encoder.in_channels)?;
        let masker = self.masker()?.build()?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let patch_norm = match self.norm_pix_loss {
            true => PatchNorm::default(),
            false => PatchNorm::None,
        };
        let target = PixelTargetConfig {
            norm: self.norm.clone(),
            patch_norm,
            ..Default::default()
        };
        let (dim, values) = (self.encoder.embed_dim, self.encoder.patch_values());
        let shape = DecoderShape::new(self.encoder.grid()?, dim, values);
        let classes = self.encoder.num_class_tokens;
        let decoder = MaeDecoder::with_prefix(&params, &self.decoder, shape, classes)?;
        Composite::builder("pixio", student, encoder, masker, MaskMode::Drop)
            .input(size, self.norm.clone(), self.plan())
            .target("pixels", target.build()?)
            .branch(
                ("pixel", "pixels"),
                decoder,
                RegressionConfig::default().build()?,
                Schedule::constant(1.),
            )
            .build()
    }
}

/// Its golden cases.
const GOLDEN: Golden<PixioConfig> = Golden {
    settings: &[
        VIT,
        MAE_DECODER,
        Setting::Same("", "", &["mask_ratio", "mask_grid", "norm_pix_loss"]),
        Setting::Renamed("n_cls_tokens", "encoder.num_class_tokens"),
    ],
    masks: Masks::Noise(|config, grid, noise| config.masker()?.build()?.from_noise(grid, noise)),
    check: |made| {
        let (mask, grid) = (made.mask()?, made.mask()?.grid());
        let cells = made.config.masker()?.build()?.cells(grid)?.len();
        made.case.fixed("blocks", cells)?;
        made.case
            .fixed("kept_blocks", mask.exact_keep()? * cells / grid.len())
    },
    outputs: &[
        ("latent", Output::Trace("latent")),
        ("pred", Output::Trace("pred.pixel")),
        ("target", Output::Trace("target.pixels")),
    ],
    ..Golden::new("mae", |config| config.encoder.grid())
};

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "In Pursuit of Pixel Supervision for Visual Pre-training",
    paper: "arXiv 2512.15715",
    reference: "facebookresearch/pixio @ b83555d",
    archs: &["vit_base", "vit_large", "vit_huge", "vit_1b", "vit_5b"],
    about: crate::registry::About {
        hidden: "75 % of the image in cells of 4x4 patches; they do not enter the encoder",
        predicted: "the pixels of the hidden patches, normalised patch by patch",
        by: "a deep transformer that sees the visible tokens, several class tokens and mask tokens",
        loss: "mean squared error on hidden patches",
        choose: "Dense tasks such as depth and segmentation, with large encoders and much data.",
    },
    status: "exact: forward, loss, gradients, step",
    recipes: recipes!("pixio_32px", "pixio_huge"),
    parity: |case, device| GOLDEN.setup(case, device),
    ..Entry::new::<PixioConfig>("pixio")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tiny() -> PixioConfig {
        let mut config = PixioConfig::with_size(&("tiny", 16, 1, 2));
        config.encoder.image_size = 32.into();
        config.encoder.patch_size = 4;
        config.encoder.num_class_tokens = 3;
        config.decoder.embed_dim = 8;
        config.decoder.depth = 1;
        config.decoder.num_heads = 2;
        config
    }

    #[test]
    fn parameter_counts_match_the_formulas() {
        let config = tiny();
        let store = config.store(&Device::Cpu, 0);
        config.build(&store).unwrap();
        let block = |dim: usize| 12 * dim * dim + 13 * dim;
        let (dim, width, patch, rows) = (16, 8, 48, 64 + 3);
        let encoder = (patch + 1) * dim + (3 + rows) * dim + block(dim) + 2 * dim;
        let decoder = (dim + 1) * width + width + rows * width + block(width) + 2 * width;
        assert_eq!(
            store.trainable_values(),
            encoder + decoder + (width + 1) * patch
        );
        assert_eq!(
            PixioConfig::arch("vit_huge").unwrap(),
            PixioConfig::default()
        );
        // The same formulas give the release's counts: encoder with the mask token, decoder without it.
        let huge = |dim: usize, depth: usize| {
            let rows = 256 + 8;
            (768 + 1) * dim + (8 + rows) * dim + depth * block(dim) + 2 * dim + 512
        };
        assert_eq!(huge(1280, 32), 631_013_632);
        assert_eq!(huge(1536, 48), 1_361_515_520);
        assert_eq!(huge(3072, 48), 5_440_939_520);
        let deep =
            |dim: usize| (dim + 1) * 512 + 264 * 512 + 32 * block(512) + 2 * 512 + (512 + 1) * 768;
        assert_eq!(deep(1280), 102_062_336);
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut PixioConfig));
        let wrong: [Wrong; 4] = [
            ("`mask_grid` is 3", |c| c.mask_grid = 3),
            ("`mask_grid` is 0", |c| c.mask_grid = 0),
            ("`mask_ratio` is 1", |c| c.mask_ratio = 1.),
            ("`num_heads` is 3", |c| c.decoder.num_heads = 3),
        ];
        for (what, spoil) in wrong {
            let mut config = tiny();
            spoil(&mut config);
            let built = config.build(&config.store(&Device::Cpu, 0));
            let error = built.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
