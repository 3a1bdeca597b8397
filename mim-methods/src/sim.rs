//! SIM: Siamese Image Modeling for Self-Supervised Vision Representation Learning (Tao et al., CVPR 2023, arXiv 2206.01204).
//!
//! From the visible patches of one view, a predictor gives what a momentum teacher sees in every patch
//! of another view of the image, told only where that patch lies; attraction and repulsion are dense.
//! Reference: OpenGVLab/Siamese-Image-Modeling @ bbdec30.

use candle_core::Device;
use mim_core::augment::{
    Augment, ColorJitter, GaussianBlur, Grayscale, HorizontalFlip, RandomResizedCrop, Solarize,
    ViewPlan,
};
use mim_core::decoders::{RelativePredictor, RelativePredictorConfig};
use mim_core::encoders::{Projected, ProjectorConfig, Vit, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::objectives::UniGradConfig;
use mim_core::params::{Ema, Init, InitScheme, ParamStore, Params, Start, When};
use mim_core::schedule::{Per, Schedule};
use mim_core::{Encoder, Norm, Result};
use mim_masking::BlockwiseMaskerConfig;
use mim_targets::{FeatureTarget, FeatureTargetConfig};
use serde::{Deserialize, Serialize};

use crate::{Composite, MaskMode, MethodConfig};

/// Settings of SIM; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimConfig {
    /// Share of the teacher that each step keeps. Default: 0.995, to 1 in a half cosine.
    pub momentum: Schedule,
    /// Whether the patch embedding is trained, not left as it was drawn. Default false.
    pub train_patch_embed: bool,
    /// Epsilon of the layer norm on what the teacher sees. Default 1e-5.
    pub teacher_norm_eps: f64,
    /// How the weights start. Default `mae`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation: the student's view, then the teacher's. Default: each its own flip, crop (scale
    /// 0.08 to 1, bicubic), colour jitter, grey and blur; the teacher's also solarized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// Patches hidden from the student. Default: blocks of exactly 118.
    pub masker: BlockwiseMaskerConfig,
    /// The loss.
    pub objective: UniGradConfig,
    /// The encoder.
    pub encoder: VitConfig,
    /// The projector behind it, in student and teacher.
    pub projector: ProjectorConfig,
    /// The predictor, in the student only.
    pub predictor: RelativePredictorConfig,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl SimConfig {
    /// SIM's variant of a ViT, and a projector and a predictor as wide as it.
    fn with_encoder(size: VitConfig) -> Self {
        let encoder = VitConfig {
            pos_embed: PosEmbedKind::SincosRowFirst,
            final_norm: false,
            ..size
        };
        // 16 heads at every published size; smaller ones keep ViT-B's 48 channels a head.
        let (embed_dim, num_heads) = (encoder.embed_dim, (encoder.embed_dim / 48).clamp(1, 16));
        Self {
            momentum: Schedule::Cosine {
                start: 0.995,
                end: 1.,
                per: Per::Iter,
            },
            train_patch_embed: false,
            teacher_norm_eps: 1e-5,
            init: Init::Mae,
            norm: Norm::imagenet(),
            views: None,
            masker: BlockwiseMaskerConfig::sim(),
            objective: UniGradConfig::default(),
            projector: ProjectorConfig {
                embed_dim,
                num_heads,
                ..ProjectorConfig::default()
            },
            predictor: RelativePredictorConfig {
                num_heads,
                ..RelativePredictorConfig::default()
            },
            encoder,
        }
    }

    fn plan(&self) -> ViewPlan {
        let view = |blur: f64| {
            vec![
                Augment::HorizontalFlip(HorizontalFlip::default()),
                Augment::RandomResizedCrop(RandomResizedCrop {
                    size: <(usize, usize)>::from(self.encoder.image_size).into(),
                    scale: [0.08, 1.],
                    ..RandomResizedCrop::default()
                }),
                Augment::ColorJitter(ColorJitter::default()),
                Augment::Grayscale(Grayscale::default()),
                Augment::GaussianBlur(GaussianBlur {
                    p: blur,
                    ..GaussianBlur::default()
                }),
            ]
        };
        let mut views = vec![view(1.), view(0.1)];
        views[1].push(Augment::Solarize(Solarize::default()));
        let shared = vec![];
        self.views.clone().unwrap_or(ViewPlan { shared, views })
    }

    /// Encoder and projector, in either branch.
    fn projected(&self, params: &Params) -> Result<Projected<Vit>> {
        Projected::new(params, Vit::new(params, &self.encoder)?, &self.projector)
    }
}

impl MethodConfig for SimConfig {
    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn store(&self, device: &Device, seed: u64) -> ParamStore {
        match self.train_patch_embed {
            true => ParamStore::new(device, seed, self.init()),
            false => ParamStore::with_frozen(device, seed, self.init(), |name| {
                name.starts_with("patch_embed.")
            }),
        }
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.norm.check(self.encoder.in_channels)?;
        self.momentum.validate()?;
        let (params, teacher) = (student.root(), ParamStore::teacher(student.device()));
        let encoder = self.projected(&params)?;
        let (grid, width) = (self.encoder.grid()?, encoder.dim());
        let predictor = RelativePredictor::new(&params, &self.predictor, grid, width)?;
        let target = FeatureTarget::new(
            self.projected(&teacher.root())?,
            FeatureTargetConfig {
                view: self.predictor.view,
                norm: self.norm.clone(),
                layer_norm_eps: Some(self.teacher_norm_eps),
                ..FeatureTargetConfig::default()
            },
        )?;
        // Parity: the release averages the mask token too, though its teacher masks nothing.
        teacher.root().weight(&[1, 1, width], "mask_token")?;
        let momentum = self.momentum.clone();
        let ema = Ema::new(student, &teacher, momentum, When::BeforeStep, Start::Copy)?;
        let masker = self.masker.build()?;
        Ok(
            Composite::new("sim", student, encoder, masker, MaskMode::Drop)
                .input(self.encoder.image_size, self.norm.clone(), self.plan())
                .target("features", target)
                .branch(
                    ("dense", "features"),
                    predictor,
                    self.objective.build()?,
                    Schedule::constant(1.),
                )
                .teacher("teacher", &teacher, ema),
        )
    }
}
