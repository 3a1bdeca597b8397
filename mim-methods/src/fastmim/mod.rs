//! FastMIM: Expediting Masked Image Modeling Pre-training for Vision (Guo et al., arXiv 2212.06593).
//!
//! Small images, whose hidden pixels are painted over with one trained colour before the encoder sees them; a light
//! decoder predicts histograms of oriented gradients of the hidden patches. FastMIM-P enlarges the images in the course
//! of training ([`ResolutionStage`]). Reference: ggjy/FastMIM.pytorch @ d4eea0d.

mod golden;
mod stages;

use mim_core::augment::ViewPlan;
use mim_core::decoders::{LightDecoder, LightDecoderConfig};
use mim_core::encoders::{EncoderConfig, PixelMasked, PvtV2Config, SwinConfig, VitConfig};
use mim_core::objectives::RegressionConfig;
use mim_core::ops::PatchOrder;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, Result};
use mim_masking::{CellMasker, CellMaskerConfig, CellRounding};
use mim_targets::{HogNorm, HogTargetConfig, PatchNorm, PixelTargetConfig};
use serde::{Deserialize, Serialize};

pub use self::stages::ResolutionStage;
use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// What FastMIM predicts for the hidden patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FastMimTarget {
    /// Histograms of oriented gradients.
    #[default]
    Hog,
    /// Pixels.
    Pixel,
}

/// Settings of FastMIM; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FastMimConfig {
    /// Fraction of blocks hidden (the number of visible blocks is rounded down), in `[0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// Side in pixels of a block that is hidden as a whole: a multiple of the encoder's output stride, or a divisor of
    /// it. Default 16; 32 for the sizes (`arch`) of Swin and PVTv2.
    pub block_size: usize,
    /// What is predicted. Default `hog`.
    pub target: FastMimTarget,
    /// Whether the nine bins of each cell and colour are divided by their L2 norm; with `target = "pixel"` whether a
    /// patch's pixels are normalised. Default true.
    pub norm_pix_loss: bool,
    /// Side in pixels of a histogram cell; it must divide blocks and tokens. Default 8.
    pub hog_cell: usize,
    /// FastMIM-P: image sizes from given epochs on. Default none: the encoder's size throughout.
    pub stages: Vec<ResolutionStage>,
    /// Initialisation of the weights. Default `fastmim`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder; a mask token in its settings is not used.
    pub encoder: EncoderConfig,
    /// The decoder.
    pub decoder: LightDecoderConfig,
}

impl Default for FastMimConfig {
    fn default() -> Self {
        let encoder = VitConfig {
            image_size: 128.into(),
            num_heads: 6,
            ..VitConfig::default()
        };
        Self {
            mask_ratio: 0.75,
            block_size: 16,
            target: FastMimTarget::Hog,
            norm_pix_loss: true,
            hog_cell: 8,
            stages: vec![],
            init: Init::FastMim,
            norm: Norm::imagenet(),
            views: None,
            encoder: encoder.into(),
            decoder: LightDecoderConfig::default(),
        }
    }
}

impl FastMimConfig {
    /// The released settings for hierarchical encoders.
    fn pyramid(encoder: EncoderConfig) -> Self {
        Self {
            block_size: 32,
            encoder,
            decoder: LightDecoderConfig {
                depth: 4,
                norm_eps: 1e-5,
                ..LightDecoderConfig::default()
            },
            ..Self::default()
        }
    }

    /// Side in pixels of a cell of the mask's grid: an output token, or a block if that is smaller.
    pub(crate) fn mask_stride(&self) -> usize {
        self.block_size.min(self.encoder.output_stride())
    }

    pub(crate) fn masker(&self) -> Result<CellMasker> {
        CellMaskerConfig {
            mask_ratio: self.mask_ratio,
            mask_patch_size: self.block_size,
            patch_size: self.mask_stride(),
            rounding: CellRounding::VisibleDown,
        }
        .build()
    }

    /// The encoder of the painted images.
    fn inner(&self) -> EncoderConfig {
        let mut encoder = self.encoder.clone();
        encoder.set_mask_token(false);
        encoder
    }

    fn hog(&self) -> HogTargetConfig {
        HogTargetConfig {
            norm: self.norm.clone(),
            cell: self.hog_cell,
            cell_norm: match self.norm_pix_loss {
                true => HogNorm::default(),
                false => HogNorm::None,
            },
            ..HogTargetConfig::fastmim()
        }
    }

    fn pixels(&self) -> PixelTargetConfig {
        PixelTargetConfig {
            norm: self.norm.clone(),
            patch_norm: match self.norm_pix_loss {
                true => PatchNorm::default(),
                false => PatchNorm::None,
            },
            ..PixelTargetConfig::default()
        }
    }

    /// Checks that blocks, tokens and histograms fit each other.
    fn check_blocks(&self) -> Result<()> {
        let (block, stride) = (self.block_size, self.encoder.output_stride());
        let bad = |field: &'static str, value: usize, why: String, fix: &'static str| {
            Err(Error::config("fastmim", field, value, why, fix))
        };
        if block == 0 || !(block.is_multiple_of(stride) || stride.is_multiple_of(block)) {
            let why = format!(
                "a block must consist of whole tokens of {stride} pixels, or a token of whole blocks"
            );
            return bad(
                "block_size",
                block,
                why,
                "make it a multiple or a divisor of the encoder's output stride",
            );
        }
        let (cell, part) = (self.hog_cell, self.mask_stride());
        if self.target == FastMimTarget::Hog && (cell == 0 || !part.is_multiple_of(cell)) {
            let why = format!(
                "the loss compares parts of {part} pixels, which must consist of whole cells"
            );
            let fix = "use a divisor, larger blocks or patches, or target = \"pixel\"";
            return bad("hog_cell", cell, why, fix);
        }
        Ok(())
    }
}

impl MethodConfig for FastMimConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        if SwinConfig::archs().any(|known| known == arch) {
            let swin = SwinConfig {
                image_size: 128.into(),
                window_size: 4,
                mask_token: false,
                ..SwinConfig::arch(arch)?
            };
            return Ok(Self::pyramid(swin.into()));
        }
        if PvtV2Config::archs().any(|known| known == arch) {
            return Ok(Self::pyramid(PvtV2Config::arch(arch)?.into()));
        }
        let vit = VitConfig::arch(arch)?;
        let vit = VitConfig {
            image_size: 128.into(),
            // Half the number of heads in fine-tuning.
            num_heads: match arch {
                "vit_base" => 6,
                _ => vit.num_heads,
            },
            ..vit
        };
        Ok(Self {
            encoder: vit.into(),
            ..Self::default()
        })
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        let (root, inner) = (student.root(), self.inner());
        let channels = inner.in_channels();
        self.norm.check(channels)?;
        // The parameter paths of the authors: a ViT's next to the decoder's, other encoders under a prefix.
        let params = match inner {
            EncoderConfig::Vit(_) => root.clone(),
            _ => root.pp("encoder"),
        };
        let encoder = PixelMasked::new(&root, inner.build(&params)?, channels)?;
        self.check_blocks()?;
        let (masker, stride) = (self.masker()?, inner.output_stride());
        self.check_sizes(&encoder, &masker)?;
        let plan = self.plan(inner.image_size())?;
        let mut composite =
            Composite::builder("fastmim", student, encoder, masker, MaskMode::Replace)
                .input(inner.image_size(), self.norm.clone(), plan)
                .mask_stride(self.mask_stride());
        for stage in &self.stages {
            composite = composite.views_from(stage.epoch, self.plan(stage.size)?);
        }
        let decoder =
            |outputs: usize| LightDecoder::new(&root, &self.decoder, inner.dim(), outputs);
        let (objective, weight) = (RegressionConfig::default().build()?, Schedule::constant(1.));
        let composite = match self.target {
            FastMimTarget::Hog => {
                let hog = self.hog();
                let decoder = decoder(hog.values(stride, channels))?
                    .cells(PatchOrder::ChannelsThenPixels, channels * hog.bins);
                composite.target("hog", hog.build()?).branch(
                    ("hog", "hog"),
                    decoder,
                    objective,
                    weight,
                )
            }
            FastMimTarget::Pixel => {
                let decoder = decoder(stride * stride * channels)?
                    .cells(PatchOrder::PixelsThenChannels, channels);
                composite.target("pixels", self.pixels().build()?).branch(
                    ("pixel", "pixels"),
                    decoder,
                    objective,
                    weight,
                )
            }
        };
        composite.build()
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "FastMIM: Expediting Masked Image Modeling Pre-training for Vision",
    paper: "Guo et al., 2022, arXiv 2212.06593",
    reference: "ggjy/FastMIM.pytorch @ d4eea0d",
    archs: &[
        "vit_tiny",
        "vit_small",
        "vit_base",
        "vit_large",
        "swin_tiny",
        "swin_small",
        "swin_base",
        "swin_large",
        "pvt_v2_b0",
        "pvt_v2_b1",
        "pvt_v2_b2",
        "pvt_v2_b3",
        "pvt_v2_b4",
        "pvt_v2_b5",
    ],
    about: crate::registry::About {
        hidden: "75 % of the image in cells; painted over before the encoder",
        predicted: "HOG of the hidden cells",
        by: "a light transformer over all tokens",
        loss: "mean squared error on hidden cells",
        choose: "Fast pre-training of any encoder at low resolution (128 pixels, or growing).",
    },
    status: "exact with ViT, Swin and PVTv2: forward, loss, gradients, step; growing images (FastMIM-P) by the paper's text",
    recipes: recipes!(
        "fastmim_32px",
        "fastmim_base",
        "fastmim_swin_base",
        "fastmim_pvtv2_b2"
    ),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<FastMimConfig>("fastmim")
};

#[cfg(test)]
mod tests;
