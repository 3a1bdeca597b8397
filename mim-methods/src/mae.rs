//! MAE: Masked Autoencoders Are Scalable Vision Learners (He et al., CVPR 2022, arXiv 2111.06377).
//!
//! Three quarters of the patches are dropped; a light decoder predicts their normalised pixels from the visible ones.
//! Reference: facebookresearch/mae @ efb2a80.

use mim_core::augment::ViewPlan;
use mim_core::decoders::{DecoderShape, MaeDecoder, MaeDecoderConfig};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::objectives::RegressionConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Norm, Result};
use mim_masking::RandomMaskerConfig;
use mim_targets::{PatchNorm, PixelTargetConfig};
use serde::{Deserialize, Serialize};

use crate::parity::golden::{
    Course, Golden, MAE_DECODER, Masks, Output, QKV_BIAS, Setting, VIT, random_mask,
};
use crate::parity::trajectory::Features;
use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Settings of MAE; `Default` is ViT-B/16 as released, with normalised pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaeConfig {
    /// Fraction of patches dropped, in `[0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// Whether each patch's pixels are normalised by their own mean and deviation. Default true.
    pub norm_pix_loss: bool,
    /// Initialisation of the weights. Default `mae`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder.
    pub encoder: VitConfig,
    /// The decoder.
    pub decoder: MaeDecoderConfig,
}

impl Default for MaeConfig {
    fn default() -> Self {
        Self {
            mask_ratio: 0.75,
            norm_pix_loss: true,
            init: Init::Mae,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig::default(),
            decoder: MaeDecoderConfig::default(),
        }
    }
}

impl MethodConfig for MaeConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self {
            encoder: VitConfig::arch(arch)?,
            ..Self::default()
        })
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.norm.check(self.encoder.in_channels)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let masker = RandomMaskerConfig {
            mask_ratio: self.mask_ratio,
        }
        .build()?;
        let patch_norm = if self.norm_pix_loss {
            PatchNorm::default()
        } else {
            PatchNorm::None
        };
        let target = PixelTargetConfig {
            norm: self.norm.clone(),
            patch_norm,
            ..Default::default()
        };
        let (dim, values) = (self.encoder.embed_dim, self.encoder.patch_values());
        let shape = DecoderShape::new(self.encoder.grid()?, dim, values);
        let decoder = MaeDecoder::new(&params, &self.decoder, shape)?;
        let objective = RegressionConfig::default().build()?;
        let views = self
            .views
            .clone()
            .unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(size)));
        Composite::builder("mae", student, encoder, masker, MaskMode::Drop)
            .input(size, self.norm.clone(), views)
            .target("pixels", target.build()?)
            .branch(
                ("pixel", "pixels"),
                decoder,
                objective,
                Schedule::constant(1.),
            )
            .build()
    }
}

/// Its golden cases.
const GOLDEN: Golden<MaeConfig> = Golden {
    settings: &[
        VIT,
        QKV_BIAS,
        MAE_DECODER,
        Setting::Same("", "", &["mask_ratio", "norm_pix_loss"]),
    ],
    masks: Masks::Noise(|config, grid, noise| random_mask(config.mask_ratio, grid, noise)),
    outputs: &[
        ("patch_embed", Output::Trace("patch_embed")),
        ("latent", Output::Trace("latent")),
        ("pred", Output::Trace("pred.pixel")),
        ("target", Output::Trace("target.pixels")),
    ],
    course: Some(Course::new(|config, device| {
        let features = Features::new(config.encoder.clone(), "student", device)?;
        Ok(vec![("features", features)])
    })),
    ..Golden::new("mae", |config| config.encoder.grid())
};

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Masked Autoencoders Are Scalable Vision Learners",
    paper: "He et al., CVPR 2022, arXiv 2111.06377",
    reference: "facebookresearch/mae @ efb2a80",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "75 % of the patches, at random; they do not enter the encoder",
        predicted: "the pixels of the hidden patches, normalised patch by patch",
        by: "a light transformer that sees the visible tokens and mask tokens",
        loss: "mean squared error on hidden patches",
        choose: "The first choice for fine-tuning: cheap, stable, needs no teacher. Its k-NN and linear accuracy are low.",
    },
    status: "exact: forward, loss, gradients, step",
    recipes: recipes!("mae_32px", "mae_base", "mae_32px_transformers"),
    parity: |case, device| GOLDEN.setup(case, device),
    ..Entry::new::<MaeConfig>("mae")
};
