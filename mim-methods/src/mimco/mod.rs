//! MimCo: Masked Image Modeling Pre-training with Contrastive Teacher (Zhou et al., ACM Multimedia 2022, arXiv
//! 2209.03063).
//!
//! SimMIM's student. Its targets are the features of a frozen contrastive network, MoCo v3, for the whole image: each
//! hidden patch must match its own feature among those of the image, and each image its own among those of the batch.
//! The authors published no code: this follows the paper's text, and settings that it does not give are ours.

mod golden;

use mim_core::augment::ViewPlan;
use mim_core::decoders::{LinearDecoder, MeanMlp, MeanMlpConfig};
use mim_core::encoders::{EncoderConfig, Vit, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::objectives::{InfoNceConfig, PatchNceConfig};
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Encoder, Error, Norm, Objective, Result};
use mim_masking::CellMaskerConfig;
use mim_targets::{FeatureTarget, FeatureTargetConfig};
use serde::{Deserialize, Serialize};

use crate::beit::needs_mask_token;
use crate::registry::Entry;
use crate::{Composite, FrozenConfig, MaskMode, MethodConfig};

/// Negatives of the patch loss: the features among which a hidden patch must match its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchNegatives {
    /// Those of all patches of its image.
    #[default]
    Image,
    /// Those of all hidden patches of the batch, over all processes.
    Batch,
}

/// How the teacher's features are pooled per image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageFeature {
    /// The mean of its patch tokens.
    #[default]
    Mean,
    /// Its class token.
    ClassToken,
}

/// Settings of MimCo; `Default` is a ViT-B/16 with MoCo v3's ViT-B/16 as teacher, whose weights must be given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MimCoConfig {
    /// Share of hidden cells, in `[0, 1)`. Default 0.6, as SimMIM's.
    pub mask_ratio: f64,
    /// Side of a cell in pixels; a multiple of the encoder's `patch_size`. Default 32.
    pub mask_patch_size: usize,
    /// Temperature of the patch loss. Default 0.2.
    pub patch_temperature: f64,
    /// Temperature of the image loss. Default 0.2.
    pub image_temperature: f64,
    /// Weight of the patch loss. Default 1.
    pub patch_weight: f64,
    /// Weight of the image loss, which is 0 if a step has a single image. Default 1.
    pub image_weight: f64,
    /// Negatives of the patch loss. Default: the features of its image.
    pub patch_negatives: PatchNegatives,
    /// How the teacher's features are pooled per image. Default: the mean of the patch tokens.
    pub image_feature: ImageFeature,
    /// Initialisation of the weights. Default `swin`: normals of deviation 0.02.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder, with trained positions and a mask token.
    pub encoder: VitConfig,
    /// The head that predicts the teacher's feature of an image.
    pub image_head: MeanMlpConfig,
    /// The teacher. Default: MoCo v3's ViT of the encoder's size; its weights must be given.
    pub target: FrozenConfig,
}

impl Default for MimCoConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl MimCoConfig {
    fn with_encoder(size: VitConfig) -> Self {
        // MoCo v3's ViT-S has 12 heads, like its ViT-B.
        let teacher = VitConfig {
            num_heads: if size.embed_dim == 384 {
                12
            } else {
                size.num_heads
            },
            ..size.clone()
        };
        Self {
            mask_ratio: 0.6,
            mask_patch_size: 2 * size.patch_size,
            patch_temperature: 0.2,
            image_temperature: 0.2,
            patch_weight: 1.,
            image_weight: 1.,
            patch_negatives: PatchNegatives::Image,
            image_feature: ImageFeature::Mean,
            init: Init::Swin,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig {
                pos_embed: PosEmbedKind::Learned,
                mask_token: true,
                ..size
            },
            image_head: MeanMlpConfig::default(),
            target: FrozenConfig {
                source: "moco_v3".to_owned(),
                encoder: EncoderConfig::Vit(teacher),
                ..FrozenConfig::default()
            },
        }
    }

    fn patch_objective(&self) -> Result<Box<dyn Objective>> {
        let temperature = self.patch_temperature;
        Ok(match self.patch_negatives {
            PatchNegatives::Image => Box::new(PatchNceConfig { temperature }.build()?),
            PatchNegatives::Batch => Box::new(plain_info_nce(temperature).build()?),
        })
    }

    /// The method with this teacher instead of the one from the settings.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        teacher: Box<dyn Encoder>,
    ) -> Result<Composite> {
        self.norm.check(self.encoder.in_channels)?;
        needs_mask_token("mimco", &self.encoder)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let masker = CellMaskerConfig {
            mask_patch_size: self.mask_patch_size,
            patch_size: self.encoder.patch_size,
            mask_ratio: self.mask_ratio,
            ..CellMaskerConfig::default()
        };
        let (inputs, outputs) = (self.encoder.output_dim(), teacher.dim());
        let mean = self.image_feature == ImageFeature::Mean;
        let features = FeatureTargetConfig {
            class_token: !mean,
            mean_token: mean,
            ..self.target.features(&self.norm)
        };
        let head = params.pp("image_head");
        let views = self
            .views
            .clone()
            .unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(size)));
        Composite::builder(
            "mimco",
            student,
            encoder,
            masker.build()?,
            MaskMode::Replace,
        )
        .input(size, self.norm.clone(), views)
        .target("features", FeatureTarget::new(teacher, features)?)
        .branch(
            ("patch", "features"),
            LinearDecoder::new(&params, inputs, outputs)?,
            self.patch_objective()?,
            weight("patch_weight", self.patch_weight)?,
        )
        .branch(
            ("image", "features"),
            MeanMlp::new(&head, &self.image_head, (inputs, outputs))?,
            plain_info_nce(self.image_temperature).build()?,
            weight("image_weight", self.image_weight)?,
        )
        .note(self.target.note())
        .build()
    }
}

/// InfoNCE over all rows of the batch, without MoCo v3's factor.
fn plain_info_nce(temperature: f64) -> InfoNceConfig {
    InfoNceConfig {
        temperature,
        scaled: false,
        ..InfoNceConfig::default()
    }
}

fn weight(field: &'static str, value: f64) -> Result<Schedule> {
    if value.is_finite() && value >= 0. {
        return Ok(Schedule::constant(value));
    }
    let why = "a weight must be finite and not negative";
    Err(Error::config("mimco", field, value, why, "use 1"))
}

impl MethodConfig for MimCoConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.compose(
            student,
            self.target
                .open_for(student.device(), self.encoder.in_channels)?,
        )
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "MimCo: Masked Image Modeling Pre-training with Contrastive Teacher",
    paper: "Zhou et al., ACM Multimedia 2022, arXiv 2209.03063",
    reference: "none: by the text of the paper",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "60 % of the image in cells of 2x2 patches; a mask token replaces them",
        predicted: "features of a contrastive teacher (MoCo v3), patch by patch and for the image",
        by: "a linear layer for patches, and a small MLP on their mean for the image",
        loss: "InfoNCE of patches and of images",
        choose: "Combines the linear accuracy of a contrastive encoder with masked training.",
    },
    status: "by the text: agrees with a second implementation in forward, losses, gradients",
    recipes: recipes!("mimco_32px", "mimco_small"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<MimCoConfig>("mimco")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::{Batch, Method, StepContext, View};

    fn tiny() -> MimCoConfig {
        let size = VitConfig {
            image_size: 32.into(),
            patch_size: 8,
            embed_dim: 16,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        };
        let mut config = MimCoConfig::with_encoder(size);
        config.target.checkpoint = "random".to_owned();
        config.image_head.hidden_dim = 8;
        config
    }

    fn losses(config: &MimCoConfig) -> Result<Vec<(String, f32)>> {
        let method = config.build(&config.store(&Device::Cpu, 0))?;
        let bytes: Vec<u8> = (0..2 * 3 * 32 * 32u32)
            .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        let pixels = Tensor::from_vec(bytes, (2, 3, 32, 32), &Device::Cpu)?;
        let batch = Batch::single(View::new(pixels, vec![])?);
        let terms = method.forward(&batch, &StepContext::new(1))?;
        let value = |(name, value, _): &(String, Tensor, f64)| {
            Ok((name.clone(), value.to_scalar::<f32>()?))
        };
        terms.terms().iter().map(value).collect()
    }

    #[test]
    fn the_small_size_has_mocos_heads() {
        let config = MimCoConfig::arch("vit_small").unwrap();
        let EncoderConfig::Vit(teacher) = &config.target.encoder else {
            panic!("the teacher is a ViT");
        };
        assert_eq!((teacher.num_heads, config.encoder.num_heads), (12, 6));
        assert_eq!(
            MimCoConfig::default(),
            MimCoConfig::arch("vit_base").unwrap()
        );
    }

    #[test]
    fn both_losses_start_near_chance() {
        let names = |losses: &[(String, f32)]| -> Vec<String> {
            losses.iter().map(|(name, _)| name.clone()).collect()
        };
        let plain = losses(&tiny()).unwrap();
        assert_eq!(names(&plain), ["patch", "image"]);
        // Among 16 patches and 2 images.
        assert!((plain[0].1 - 16f32.ln()).abs() < 1.5 && plain[1].1 < 3.);
        let other = MimCoConfig {
            patch_negatives: PatchNegatives::Batch,
            image_feature: ImageFeature::ClassToken,
            ..tiny()
        };
        let other = losses(&other).unwrap();
        assert_eq!(names(&other), ["patch", "image"]);
        assert_ne!(other[1].1, plain[1].1);
    }

    #[test]
    fn teachers_with_another_grid_and_missing_weights_are_refused() {
        let mut finer = tiny();
        if let EncoderConfig::Vit(teacher) = &mut finer.target.encoder {
            teacher.patch_size = 4;
        }
        let error = losses(&finer).unwrap_err().to_string();
        assert!(error.contains("16x16 pixels"), "{error}");
        let mut missing = tiny();
        missing.target.checkpoint.clear();
        let error = losses(&missing).unwrap_err().to_string();
        assert!(error.contains("MoCo v3"), "{error}");
        let negative = MimCoConfig {
            image_weight: -1.,
            ..tiny()
        };
        assert!(losses(&negative).is_err());
    }
}
