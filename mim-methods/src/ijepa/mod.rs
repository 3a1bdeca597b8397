//! I-JEPA: Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture (Assran et al., CVPR
//! 2023, arXiv 2301.08243).
//!
//! The encoder sees a large block of an image. From it, a narrow transformer predicts, for each of several smaller
//! blocks, the features that a momentum copy computes from the whole image. Reference: facebookresearch/ijepa @
//! 52c1ae9.

pub(crate) mod golden;

use mim_core::augment::{Augment, Interpolation, RandomResizedCrop, ViewPlan};
use mim_core::decoders::{DecoderShape, Predictor, PredictorConfig};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::objectives::RegressionConfig;
use mim_core::params::{Ema, EmaStart, EmaTiming, Init, InitScheme, ParamStore};
use mim_core::schedule::{Per, Schedule};
use mim_core::{Norm, Result};
use mim_masking::MultiBlockMaskerConfig;
use mim_targets::{FeatureTarget, FeatureTargetConfig};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Epsilon of the norm of the target.
// Parity: PyTorch's default, not the epsilon of the network's norms.
const TARGET_NORM_EPS: f64 = 1e-5;

/// Settings of I-JEPA; `Default` is ViT-H/14 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IJepaConfig {
    /// The blocks.
    pub masker: MultiBlockMaskerConfig,
    /// Where the loss changes from quadratic to linear. Default 1.
    pub beta: f64,
    /// Momentum of the copy. Default: linear from 0.996 to 1.
    pub momentum: Schedule,
    /// Initialisation of the weights. Default `ijepa`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.3 to 1, bilinear), no flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder, also used by the copy. Default: without a class token.
    pub encoder: VitConfig,
    /// The predictor. Default: the encoder's number of heads.
    pub predictor: PredictorConfig,
}

impl Default for IJepaConfig {
    fn default() -> Self {
        let huge = VitConfig {
            patch_size: 14,
            embed_dim: 1280,
            depth: 32,
            num_heads: 16,
            ..VitConfig::default()
        };
        Self::with_encoder(huge, 12)
    }
}

impl IJepaConfig {
    fn with_encoder(size: VitConfig, depth: usize) -> Self {
        Self {
            masker: MultiBlockMaskerConfig::default(),
            beta: 1.,
            momentum: Schedule::Linear {
                start: 0.996,
                end: 1.,
                per: Per::Iter,
            },
            init: Init::IJepa,
            norm: Norm::imagenet(),
            views: None,
            predictor: PredictorConfig {
                depth,
                num_heads: size.num_heads,
                ..PredictorConfig::default()
            },
            encoder: VitConfig {
                num_class_tokens: 0,
                ..size
            },
        }
    }

    /// The momentum copy of the encoder in its own store, and its EMA.
    fn teacher(&self, student: &ParamStore) -> Result<(Vit, ParamStore, Ema)> {
        let store = ParamStore::teacher(student.device());
        let copy = Vit::new(&store.root(), &self.encoder)?;
        let momentum = self.momentum.clone();
        let ema = Ema::new(
            student,
            &store,
            momentum,
            EmaTiming::AfterStep,
            EmaStart::Copy,
        )?;
        Ok((copy, store, ema))
    }

    fn plan(&self) -> ViewPlan {
        self.views.clone().unwrap_or_else(|| {
            let size = <(usize, usize)>::from(self.encoder.image_size);
            ViewPlan::single(vec![Augment::RandomResizedCrop(RandomResizedCrop {
                size: size.into(),
                scale: [0.3, 1.],
                interpolation: Interpolation::Bilinear,
                ..RandomResizedCrop::default()
            })])
        })
    }
}

impl MethodConfig for IJepaConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        let giant = || VitConfig {
            embed_dim: 1408,
            depth: 40,
            num_heads: 16,
            mlp_ratio: 4.3637,
            ..VitConfig::default()
        };
        Ok(match arch {
            "vit_giant" => Self::with_encoder(giant(), 16),
            "vit_huge" => Self::default(),
            // With smaller encoders the release's predictor uses its constructor's default.
            _ => Self::with_encoder(VitConfig::arch(arch)?, 6),
        })
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.encoder.validate()?;
        self.norm.check(self.encoder.in_channels)?;
        self.momentum.validate()?;
        let masker = self.masker.build()?;
        let (params, size, grid) = (
            student.root(),
            self.encoder.image_size,
            self.encoder.grid()?,
        );
        // Check that blocks of any size fit the grid: sizes grow with the draws.
        for draw in [0., 1.] {
            masker.sizes(grid, [draw; 2])?;
        }
        let encoder = Vit::new(&params, &self.encoder)?;
        // Made before the predictor, because the copy has none.
        let (copy, store, ema) = self.teacher(student)?;
        let dim = self.encoder.output_dim();
        let shape = DecoderShape::new(grid, dim, dim);
        let decoder = Predictor::new(&params.pp("predictor"), &self.predictor, shape)?;
        let features = FeatureTargetConfig {
            norm: self.norm.clone(),
            layer_norm_eps: Some(TARGET_NORM_EPS),
            ..Default::default()
        };
        Composite::builder("ijepa", student, encoder, masker, MaskMode::Drop)
            .input(size, self.norm.clone(), self.plan())
            .teacher("teacher", &store, ema)
            .evaluated("teacher", copy.clone())
            .target("features", FeatureTarget::new(copy, features)?)
            .branch(
                ("feature", "features"),
                decoder,
                RegressionConfig::smooth_l1(self.beta).build()?,
                Schedule::constant(1.),
            )
            .build()
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture",
    paper: "Assran et al., CVPR 2023, arXiv 2301.08243",
    reference: "facebookresearch/ijepa @ 52c1ae9",
    archs: &[
        "vit_tiny",
        "vit_small",
        "vit_base",
        "vit_large",
        "vit_huge",
        "vit_giant",
    ],
    about: crate::registry::About {
        hidden: "all but one large block; the four blocks that are predicted are taken out of it",
        predicted: "the features of each of the four blocks in a momentum copy that sees the whole image",
        by: "a narrow transformer, for each block on its own",
        loss: "smooth L1",
        choose: "Features without pixels and without views; linear probes of large encoders.",
    },
    status: "exact: masks, targets, forward, loss, gradients, step, teacher",
    recipes: recipes!("ijepa_32px", "ijepa_huge"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<IJepaConfig>("ijepa")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::Method;

    fn tiny() -> IJepaConfig {
        let size = VitConfig {
            image_size: 32.into(),
            patch_size: 4,
            embed_dim: 16,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        };
        let mut config = IJepaConfig::with_encoder(size, 1);
        config.masker.min_keep = 4;
        config.predictor.embed_dim = 8;
        config
    }

    #[test]
    fn parameter_counts_match_the_formulas() {
        // Without position tables, as the release counts.
        let block = |dim: usize, hidden: usize| 4 * dim * dim + 9 * dim + (2 * dim + 1) * hidden;
        let encoder = |patch: usize, dim: usize, depth: usize, hidden: usize| {
            (patch + 1) * dim + depth * block(dim, hidden) + 2 * dim
        };
        let predictor = |dim: usize, width: usize, depth: usize| {
            (dim + 1) * width
                + width
                + depth * block(width, 4 * width)
                + 2 * width
                + (width + 1) * dim
        };
        let config = tiny();
        let store = config.store(&Device::Cpu, 0);
        config.build(&store).unwrap();
        let all = encoder(48, 16, 1, 64) + predictor(16, 8, 1);
        assert_eq!(store.trainable_values(), all);
        assert_eq!(encoder(588, 1280, 32, 5120), 630_434_560);
        assert_eq!(encoder(768, 1280, 32, 5120), 630_664_960);
        assert_eq!(encoder(768, 1408, 40, 6144), 1_011_092_608);
        assert_eq!(predictor(1280, 384, 12), 22_279_424);
        assert_eq!(predictor(1408, 384, 16), 29_475_712);
        let giant = IJepaConfig::arch("vit_giant").unwrap();
        assert_eq!((giant.predictor.depth, giant.predictor.num_heads), (16, 16));
        assert!((6144. ..6145.).contains(&(giant.encoder.mlp_ratio * 1408.)));
    }

    #[test]
    fn the_copy_is_evaluated_and_has_no_predictor() {
        let config = tiny();
        let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let names: Vec<&str> = method.encoders().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["teacher", "student"]);
        let (_, teacher) = method.stores()[1];
        assert!(
            teacher
                .names()
                .iter()
                .all(|(name, _)| !name.starts_with("predictor"))
        );
        assert!(
            teacher.var("cls_token").is_none() && teacher.var("blocks.0.norm1.weight").is_some()
        );
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut IJepaConfig));
        let wrong: [Wrong; 5] = [
            ("lower min_keep", |c| c.masker.min_keep = 10),
            ("`targets` is 0", |c| c.masker.targets = 0),
            ("`num_heads` is 3", |c| c.predictor.num_heads = 3),
            ("`embed_dim` is 6", |c| c.predictor.embed_dim = 6),
            ("`beta` is 0", |c| c.beta = 0.),
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
