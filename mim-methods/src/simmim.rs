//! SimMIM: A Simple Framework for Masked Image Modeling (Xie et al., CVPR 2022, arXiv 2111.09886).
//!
//! Large square cells are replaced by a mask token; one linear layer predicts their raw pixels under
//! an L1 loss. Reference: microsoft/SimMIM @ d3e29bc.

use mim_core::augment::{Interpolation, RandomResizedCrop, ViewPlan};
use mim_core::decoders::LinearDecoder;
use mim_core::encoders::{RelPosBiasKind, Vit, VitConfig};
use mim_core::nn::{PosEmbedKind, QkvBias};
use mim_core::objectives::RegressionConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Norm, Result};
use mim_masking::CellMaskerConfig;
use mim_targets::PixelTargetConfig;
use serde::{Deserialize, Serialize};

use crate::{Composite, MaskMode, MethodConfig};

/// Settings of SimMIM; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimMimConfig {
    /// Fraction of cells hidden (rounded up to whole cells), in `[0, 1)`. Default 0.6.
    pub mask_ratio: f64,
    /// Side of a cell in pixels; a multiple of the encoder's `patch_size`. Default 32.
    pub mask_patch_size: usize,
    /// How the weights start. Default `beit`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.67 to 1, bilinear) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder.
    pub encoder: VitConfig,
}

impl Default for SimMimConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl SimMimConfig {
    /// SimMIM's variant of a ViT: shared relative bias, no positions, layer scale, q and v biases.
    fn with_encoder(size: VitConfig) -> Self {
        let encoder = VitConfig {
            qkv_bias: QkvBias::QV,
            layer_scale_init: Some(0.1),
            drop_path_rate: 0.1,
            pos_embed: PosEmbedKind::None,
            rel_pos_bias: RelPosBiasKind::Shared,
            mask_token: true,
            ..size
        };
        Self {
            mask_ratio: 0.6,
            mask_patch_size: 32,
            init: Init::Beit,
            norm: Norm::imagenet(),
            views: None,
            encoder,
        }
    }
}

impl SimMimConfig {
    fn plan(&self) -> ViewPlan {
        let crop = || RandomResizedCrop {
            size: <(usize, usize)>::from(self.encoder.image_size).into(),
            scale: [0.67, 1.],
            interpolation: Interpolation::Bilinear,
            ..Default::default()
        };
        self.views
            .clone()
            .unwrap_or_else(|| ViewPlan::crop_and_flip(crop()))
    }
}

impl MethodConfig for SimMimConfig {
    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        let VitConfig {
            image_size,
            patch_size,
            in_channels,
            embed_dim,
            ..
        } = self.encoder;
        self.norm.check(in_channels)?;
        let params = student.root();
        let encoder = Vit::new(&params, &self.encoder)?;
        let (mask_ratio, mask_patch_size) = (self.mask_ratio, self.mask_patch_size);
        let masker = CellMaskerConfig {
            mask_ratio,
            mask_patch_size,
            patch_size,
            ..Default::default()
        };
        let target = PixelTargetConfig {
            norm: self.norm.clone(),
            ..PixelTargetConfig::simmim()
        };
        let decoder = LinearDecoder::new(&params, embed_dim, self.encoder.patch_values())?;
        let objective = RegressionConfig {
            channels: in_channels,
            ..RegressionConfig::simmim()
        };
        Ok(Composite::new(
            "simmim",
            student,
            encoder,
            masker.build()?,
            MaskMode::Replace,
        )
        .input(image_size, self.norm.clone(), self.plan())
        .target("pixels", target.build()?)
        .branch(
            ("pixel", "pixels"),
            decoder,
            objective.build()?,
            Schedule::constant(1.),
        ))
    }
}
