//! CMAE: Contrastive Masked Autoencoders are Stronger Vision Learners (Huang et al., TPAMI 2023,
//! arXiv 2207.13532).
//!
//! MAE on one view, plus a contrastive loss. The features completed for that view, pooled and projected, must match the
//! output of a momentum encoder for a second, slightly shifted view of the same image. Reference: ZhichengHuang/CMAE @
//! e786a52.

mod golden;
mod views;

use mim_core::augment::ViewPlan;
use mim_core::decoders::{DecoderShape, MaeDecoder, MaeDecoderConfig, PooledDecoder};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::{PosEmbedKind, ProjectionHeadConfig};
use mim_core::objectives::{InfoNceConfig, RegressionConfig};
use mim_core::params::{CmaeInit, Ema, EmaStart, EmaTiming, InitScheme, ParamStore, Params};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, Result};
use mim_masking::{CellMaskerConfig, CellRounding};
use mim_targets::{FeatureTarget, FeatureTargetConfig, PixelTargetConfig};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Settings of CMAE; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CmaeConfig {
    /// Fraction of cells hidden (the number of visible cells is rounded down), in `[0, 1)`. Default 0.65.
    pub mask_ratio: f64,
    /// Side of a cell in pixels; a multiple of the encoder's `patch_size`. Default 32.
    pub mask_patch_size: usize,
    /// Temperature of the contrastive loss. Default 0.07.
    pub temperature: f64,
    /// Weight of the reconstruction. Default 1.
    pub pixel_weight: f64,
    /// Weight of the contrastive loss. Default 1.
    pub contrast_weight: f64,
    /// Whether the momentum encoder uses its class token. Default true.
    pub target_class_token: bool,
    /// Momentum of the target networks. Default 0.996 throughout.
    pub momentum: Schedule,
    /// By how many pixels the crop that both views share is larger than the images. The first view is its top left
    /// corner; the second is offset by less than this many rows and columns. Default 32.
    pub shift: usize,
    /// Values per patch from the feature decoder. If not set (the default): `encoder.embed_dim`, the only width that
    /// the projector accepts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_dim: Option<usize>,
    /// Normalisation of the images. Default: ImageNet's, channels reversed.
    // Parity: the release loads RGB and swaps the channels before it subtracts the means. So the network sees blue,
    // green, red, and blue has the mean and deviation of red.
    pub norm: Norm,
    /// Augmentation, two views. Default: one random resized crop (scale 0.2 to 1, bicubic) and flip for both; the
    /// second view is shifted and has colour augmentation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder.
    pub encoder: VitConfig,
    /// The decoder of pixels.
    pub decoder: MaeDecoderConfig,
    /// The decoder of features.
    pub feature_decoder: MaeDecoderConfig,
    /// The head on pooled features; the target has a copy of it.
    pub projector: ProjectionHeadConfig,
    /// The head on top of the projector, with the same output width.
    pub predictor: ProjectionHeadConfig,
}

impl Default for CmaeConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl CmaeConfig {
    /// CMAE's variant of a ViT and of MAE's decoder: row-first positions.
    fn with_encoder(size: VitConfig) -> Self {
        let decoder = |depth| MaeDecoderConfig {
            depth,
            pos_embed: PosEmbedKind::SincosRowFirst,
            ..MaeDecoderConfig::default()
        };
        let rgb = Norm::imagenet();
        Self {
            mask_ratio: 0.65,
            mask_patch_size: 2 * size.patch_size,
            temperature: InfoNceConfig::default().temperature,
            pixel_weight: 1.,
            contrast_weight: 1.,
            target_class_token: true,
            momentum: Schedule::constant(0.996),
            shift: 32,
            feature_dim: None,
            norm: Norm {
                mean: rgb.mean.into_iter().rev().collect(),
                std: rgb.std.into_iter().rev().collect(),
                reverse_channels: true,
            },
            views: None,
            encoder: VitConfig {
                pos_embed: PosEmbedKind::SincosRowFirst,
                ..size
            },
            decoder: decoder(8),
            feature_decoder: decoder(2),
            projector: ProjectionHeadConfig::default(),
            predictor: ProjectionHeadConfig::default(),
        }
    }

    /// The masker: whole cells of patches.
    pub(crate) fn masker(&self) -> CellMaskerConfig {
        CellMaskerConfig {
            mask_patch_size: self.mask_patch_size,
            patch_size: self.encoder.patch_size,
            mask_ratio: self.mask_ratio,
            rounding: CellRounding::VisibleDown,
        }
    }

    fn feature_decoder(&self, params: &Params) -> Result<PooledDecoder> {
        let width = self.encoder.embed_dim;
        let bad = |field: &'static str, value: usize, why: String, fix: String| {
            Err(Error::config("cmae", field, value, why, fix))
        };
        if let Some(other) = self.feature_dim.filter(|dim| *dim != width) {
            let why =
                format!("the projector also reads the target's tokens, which have width {width}");
            return bad(
                "feature_dim",
                other,
                why,
                "remove it to use the default".to_owned(),
            );
        }
        let (end, other) = (self.projector.out_dim, self.predictor.out_dim);
        if end != other {
            let why = format!("it must equal projector.out_dim = {end}");
            return bad("predictor.out_dim", other, why, format!("set it to {end}"));
        }
        let decoder = &self.feature_decoder;
        let shape = DecoderShape::new(self.encoder.grid()?, width, width);
        Ok(PooledDecoder::new(
            MaeDecoder::new(&params.pp("feature"), decoder, shape)?,
            self.projector.build(&params.pp("projector"), width)?,
            self.predictor.build(&params.pp("predictor"), end)?,
        ))
    }

    /// The momentum encoder, without its final norm, and the momentum projector.
    fn feature_target(&self, teacher: &Params) -> Result<FeatureTarget> {
        let encoder = VitConfig {
            final_norm: false,
            class_token: self.target_class_token,
            ..self.encoder.clone()
        };
        let config = FeatureTargetConfig {
            view: 1,
            norm: self.norm.clone(),
            pool: true,
            ..FeatureTargetConfig::default()
        };
        let projector = &teacher.pp("projector");
        let head = self.projector.build(projector, encoder.embed_dim)?;
        Ok(FeatureTarget::new(Vit::new(teacher, &encoder)?, config)?.with_head(head))
    }
}

impl MethodConfig for CmaeConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        Box::new(CmaeInit {
            patch_values: self.encoder.patch_values(),
            projector_inputs: self.encoder.embed_dim,
            predictor_inputs: self.projector.out_dim,
        })
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        let VitConfig {
            image_size,
            embed_dim,
            ..
        } = self.encoder;
        self.norm.check(self.encoder.in_channels)?;
        self.momentum.validate()?;
        let params = student.root();
        let encoder = Vit::new(&params, &self.encoder)?;
        let values = self.encoder.patch_values();
        let shape = DecoderShape::new(self.encoder.grid()?, embed_dim, values);
        let decoder = MaeDecoder::new(&params, &self.decoder, shape)?;
        let feature_decoder = self.feature_decoder(&params)?;
        let teacher = ParamStore::teacher(student.device());
        let features = self.feature_target(&teacher.root())?;
        let momentum = self.momentum.clone();
        let ema = Ema::new(
            student,
            &teacher,
            momentum,
            EmaTiming::AfterStep,
            EmaStart::Copy,
        )?;
        let pixels = PixelTargetConfig {
            norm: self.norm.clone(),
            ..PixelTargetConfig::default()
        };
        let contrast = InfoNceConfig {
            temperature: self.temperature,
            ..InfoNceConfig::default()
        };
        let masker = self.masker().build()?;
        let plan = views::shifted(image_size.into(), self.shift);
        let views = self.views.clone().unwrap_or(plan);
        Composite::builder("cmae", student, encoder, masker, MaskMode::Drop)
            .input(image_size, self.norm.clone(), views)
            .target("pixels", pixels.build()?)
            .target("features", features)
            .branch(
                ("pixel", "pixels"),
                decoder,
                RegressionConfig::default().build()?,
                weight("pixel_weight", self.pixel_weight)?,
            )
            .branch(
                ("feature", "features"),
                feature_decoder,
                contrast.build()?,
                weight("contrast_weight", self.contrast_weight)?,
            )
            .teacher("teacher", &teacher, ema)
            .build()
    }
}

fn weight(field: &'static str, value: f64) -> Result<Schedule> {
    if value.is_finite() && value >= 0. {
        return Ok(Schedule::constant(value));
    }
    let why = "a weight must be finite and not negative";
    Err(Error::config("cmae", field, value, why, "use 1"))
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Contrastive Masked Autoencoders are Stronger Vision Learners",
    paper: "Huang et al., TPAMI 2023, arXiv 2207.13532",
    reference: "ZhichengHuang/CMAE @ e786a52",
    archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
    about: crate::registry::About {
        hidden: "65 % of the image in cells of 2x2 patches; they do not enter the encoder",
        predicted: "pixels, and the projected features of a shifted view",
        by: "a pixel decoder, and a feature decoder with projector and predictor",
        loss: "mean squared error and InfoNCE",
        choose: "MAE with discriminative features; needs a large batch for its negatives.",
    },
    status: "exact: forward, losses, gradients, step, momentum networks",
    recipes: recipes!("cmae_32px", "cmae_base"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<CmaeConfig>("cmae")
};

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use mim_core::{Batch, Method, StepContext, View};

    use super::*;

    fn tiny() -> CmaeConfig {
        let settings = "
            mask_patch_size = 16
            shift = 4
            encoder = { image_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2 }
            decoder = { embed_dim = 8, depth = 1, num_heads = 2 }
            feature_decoder = { embed_dim = 8, depth = 1, num_heads = 2 }
            projector = { hidden_dim = 12, out_dim = 8 }
            predictor = { hidden_dim = 6, out_dim = 8 }";
        let entry = crate::registry::method("cmae").unwrap();
        let all = entry.resolve(settings.parse().unwrap()).unwrap();
        all.try_into().unwrap()
    }

    fn built(config: &CmaeConfig) -> Result<Composite> {
        config.build(&config.store(&Device::Cpu, 0))
    }

    #[test]
    fn the_base_recipe_has_the_papers_sizes() {
        let config = CmaeConfig::arch("vit_base").unwrap();
        assert_eq!(config, CmaeConfig::default());
        assert_eq!((config.mask_ratio, config.mask_patch_size), (0.65, 32));
        let decoders = [&config.decoder, &config.feature_decoder];
        assert_eq!(decoders.map(|decoder| decoder.depth), [8, 2]);
        assert_eq!(config.momentum.at(&StepContext::new(0)), 0.996);
        let head = |config: &ProjectionHeadConfig| (config.hidden_dim, config.out_dim);
        assert_eq!(head(&config.projector), (1536, 256));
        assert_eq!(head(&config.predictor), (1536, 256));
        for arch in ["vit_tiny", "vit_small", "vit_large"] {
            assert!(CmaeConfig::arch(arch).is_ok());
        }
        let views = built(&tiny()).unwrap().views(0).views;
        assert_eq!(views.len(), 2);
    }

    #[test]
    fn channels_are_reversed_and_blue_has_the_mean_of_red() {
        let red = Tensor::from_vec(vec![255u8, 0, 0], (1, 3, 1, 1), &Device::Cpu).unwrap();
        let view = View::new(red, vec![]).unwrap();
        let seen = view.normalized(&CmaeConfig::default().norm).unwrap();
        let seen: Vec<f32> = seen.flatten_all().unwrap().to_vec1().unwrap();
        let wanted = [-0.485 / 0.229, -0.456 / 0.224, (1. - 0.406) / 0.225];
        for (seen, wanted) in seen.iter().zip(wanted) {
            assert!((seen - wanted).abs() < 1e-5, "{seen} != {wanted}");
        }
    }

    #[test]
    fn targets_start_as_copies_and_follow_after_the_step() {
        let config = tiny();
        let method = built(&config).unwrap();
        let (student, teacher) = (method.stores()[0].1.clone(), method.stores()[1].1.clone());
        let values = |store: &ParamStore, name: &str| -> Vec<f32> {
            let var = store.var(name).unwrap();
            var.flatten_all().unwrap().to_vec1().unwrap()
        };
        assert!(teacher.var("norm.weight").is_none() && teacher.trainable().is_empty());
        for name in ["blocks.0.attn.qkv.weight", "projector.fc1.weight"] {
            assert_eq!(values(&student, name), values(&teacher, name));
        }
        let moved = (student.var("cls_token").unwrap().as_tensor() + 1.).unwrap();
        student.var("cls_token").unwrap().set(&moved).unwrap();
        let before = values(&teacher, "cls_token");
        method.after_step(&StepContext::new(0)).unwrap();
        for (a, b) in values(&teacher, "cls_token").iter().zip(before) {
            assert!((a - b - 0.004).abs() < 1e-5);
        }
    }

    #[test]
    fn a_reconstruction_needs_only_one_view() {
        let method = built(&tiny()).unwrap();
        let pixels = Tensor::zeros((2, 3, 32, 32), candle_core::DType::U8, &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels, vec![]).unwrap());
        let step = StepContext::inference();
        let picture = method.reconstruct(&batch, &step).unwrap();
        assert_eq!(picture.reconstruction.dims(), [2, 3, 32, 32]);
        let error = method.forward(&batch, &step).unwrap_err().to_string();
        assert!(error.contains("at least 2 views"), "{error}");
    }

    #[test]
    fn invalid_settings_are_named() {
        let refused = |change: fn(&mut CmaeConfig), part: &str| {
            let mut config = tiny();
            change(&mut config);
            let error = built(&config).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(|c| c.feature_dim = Some(48), "`feature_dim` is 48");
        refused(|c| c.predictor.out_dim = 4, "`predictor.out_dim` is 4");
        refused(|c| c.contrast_weight = -1., "`contrast_weight` is -1");
        refused(|c| c.temperature = 0., "`temperature` is 0");
        refused(|c| c.mask_patch_size = 12, "`mask_patch_size` is 12");
        refused(|c| c.mask_ratio = 1., "`mask_ratio` is 1");
        refused(|c| c.projector.hidden_dim = 0, "`hidden_dim` is 0");
        refused(|c| c.momentum = Schedule::constant(f64::NAN), "`value`");
        let mut same = tiny();
        same.feature_dim = Some(16);
        assert!(built(&same).is_ok());
    }
}
