//! SIM: Siamese Image Modeling for Self-Supervised Vision Representation Learning (Tao et al., CVPR 2023, arXiv 2206.01204).
//!
//! From the visible patches of one view, a predictor predicts the features of a momentum teacher for every patch of
//! another view of the image. It is given only the relative position of that patch. Attraction and repulsion are
//! applied per patch. Reference: OpenGVLab/Siamese-Image-Modeling @ bbdec30.

mod golden;

use candle_core::Device;
use mim_core::augment::{
    Augment, ColorJitter, GaussianBlur, Grayscale, HorizontalFlip, RandomResizedCrop, Solarize,
    ViewPlan,
};
use mim_core::decoders::{RelativePredictor, RelativePredictorConfig};
use mim_core::encoders::{Projected, ProjectorConfig, Vit, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::objectives::UniGradConfig;
use mim_core::params::{Ema, EmaStart, EmaTiming, Init, InitScheme, ParamStore, Params};
use mim_core::schedule::{Per, Schedule};
use mim_core::{Encoder, Norm, Result};
use mim_masking::BlockwiseMaskerConfig;
use mim_targets::{FeatureTarget, FeatureTargetConfig};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Settings of SIM; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimConfig {
    /// Momentum of the teacher: the share that each step keeps. Default: from 0.995 to 1 along a half cosine.
    pub momentum: Schedule,
    /// Whether the patch embedding is trained; if not, it keeps its initial values. Default false.
    pub train_patch_embed: bool,
    /// Epsilon of the layer norm on the teacher's features. Default 1e-5.
    pub teacher_norm_eps: f64,
    /// Initialisation of the weights. Default `mae`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation: the student's view, then the teacher's. Default: each with its own flip, crop (scale 0.08 to 1,
    /// bicubic), colour jitter, grey and blur; the teacher's view is also solarized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// Patches hidden from the student. Default: blocks of exactly 118.
    pub masker: BlockwiseMaskerConfig,
    /// The loss.
    pub objective: UniGradConfig,
    /// The encoder.
    pub encoder: VitConfig,
    /// The projector after it, in student and teacher.
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
    /// SIM's variant of a ViT, with a projector and predictor of the same width.
    fn with_encoder(size: VitConfig) -> Self {
        let encoder = VitConfig {
            pos_embed: PosEmbedKind::SincosRowFirst,
            final_norm: false,
            ..size
        };
        // 16 heads at every published size; smaller encoders keep ViT-B's 48 channels per head.
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

    /// Encoder and projector of one branch.
    fn projected(&self, params: &Params) -> Result<Projected<Vit>> {
        Projected::new(params, Vit::new(params, &self.encoder)?, &self.projector)
    }
}

impl MethodConfig for SimConfig {
    type Method = Composite;

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
        // Parity: the release averages the mask token as well, although its teacher has no masks.
        teacher.root().weight(&[1, 1, width], "mask_token")?;
        let momentum = self.momentum.clone();
        let ema = Ema::new(
            student,
            &teacher,
            momentum,
            EmaTiming::BeforeStep,
            EmaStart::Copy,
        )?;
        let masker = self.masker.build()?;
        Composite::builder("sim", student, encoder, masker, MaskMode::Drop)
            .input(self.encoder.image_size, self.norm.clone(), self.plan())
            .target("features", target)
            .branch(
                ("dense", "features"),
                predictor,
                self.objective.build()?,
                Schedule::constant(1.),
            )
            .teacher("teacher", &teacher, ema)
            .build()
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Siamese Image Modeling for Self-Supervised Vision Representation Learning",
    paper: "Tao et al., CVPR 2023, arXiv 2206.01204",
    reference: "OpenGVLab/Siamese-Image-Modeling @ bbdec30",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "about 60 % of the patches of one of two views, in blocks; they are dropped",
        predicted: "features of the other view, which a momentum teacher sees whole",
        by: "a decoder that is told where the other view lies",
        loss: "UniGrad: similarity, and repulsion in closed form",
        choose: "Good k-NN and linear accuracy, and fine-tuning as well; needs two views and large batches.",
    },
    status: "exact: forward, loss, gradients, step, teacher",
    recipes: recipes!("sim_32px", "sim_base"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<SimConfig>("sim")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Tensor};
    use mim_core::optim::{AdamWConfig, Clip};
    use mim_core::train::Stepper;
    use mim_core::{Batch, Crop, Method, StepContext, View};
    use mim_masking::HiddenCount;

    fn tiny() -> SimConfig {
        let mut config = SimConfig::with_encoder(VitConfig {
            image_size: 32.into(),
            patch_size: 8,
            embed_dim: 16,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        });
        config.masker.hidden = HiddenCount::Ratio { ratio: 0.6 };
        config.masker.min_block = 2;
        config.momentum = Schedule::constant(0.5);
        (config.projector.num_heads, config.projector.depth) = (2, 1);
        (config.predictor.num_heads, config.predictor.depth) = (2, 1);
        config
    }

    fn batch(seed: u32) -> Batch {
        let view = |index: u32| {
            let bytes = (0..2 * 3 * 32 * 32u32).map(|at| {
                let mixed = (at + 7919 * (seed + index)).wrapping_mul(2_654_435_761);
                mixed.to_le_bytes()[3]
            });
            let pixels = Tensor::from_iter(bytes, &Device::Cpu).unwrap();
            let crop = Crop {
                left: f32::from(u8::try_from(index).unwrap()),
                ..Crop::whole((40, 40))
            };
            View::new(pixels.reshape((2, 3, 32, 32)).unwrap(), vec![crop; 2]).unwrap()
        };
        Batch {
            views: vec![view(0), view(1)],
            ..Batch::single(view(0))
        }
    }

    fn values(store: &ParamStore, name: &str) -> Vec<f32> {
        let var = store.var(name).unwrap();
        var.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_default_is_the_released_recipe() {
        let config = SimConfig::default();
        let (encoder, projector) = (&config.encoder, &config.projector);
        assert_eq!(
            (encoder.embed_dim, encoder.depth, encoder.num_heads),
            (768, 12, 12)
        );
        assert!(!encoder.final_norm && encoder.layer_scale_init.is_none());
        assert_eq!(
            (projector.embed_dim, projector.depth, projector.num_heads),
            (768, 2, 16)
        );
        assert_eq!(
            (config.predictor.depth, config.predictor.num_heads),
            (4, 16)
        );
        assert_eq!(config.objective.neg_weight, 0.02);
        assert_eq!(config.masker.hidden, HiddenCount::Patches { count: 118 });
        let half = StepContext {
            epoch: 800,
            epochs: 1600,
            ..StepContext::new(0)
        };
        assert!((config.momentum.at(&half) - 0.9975).abs() < 1e-12);
        let plan = config.plan();
        assert_eq!(
            (plan.shared.len(), plan.views[0].len(), plan.views[1].len()),
            (0, 5, 6)
        );
        assert!(plan.check().is_ok());
    }

    #[test]
    fn every_size_has_a_projector_of_its_width() {
        let heads = ["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"].map(|arch| {
            let config = SimConfig::arch(arch).unwrap();
            assert_eq!(config.projector.embed_dim, config.encoder.embed_dim);
            assert_eq!(config.encoder.pos_embed, PosEmbedKind::SincosRowFirst);
            assert_eq!(config.projector.embed_dim % config.projector.num_heads, 0);
            config.predictor.num_heads
        });
        assert_eq!(heads, [4, 8, 16, 16, 16]);
    }

    #[test]
    fn the_patch_embedding_is_trained_only_when_asked_for() {
        for train_patch_embed in [false, true] {
            let config = SimConfig {
                train_patch_embed,
                ..tiny()
            };
            let store = config.store(&Device::Cpu, 0);
            config.build(&store).unwrap();
            let trained = store.trainable();
            let trains = trained
                .iter()
                .any(|(name, _)| name.starts_with("patch_embed."));
            assert_eq!(trains, train_patch_embed);
        }
    }

    #[test]
    fn statistics_follow_each_micro_batch_and_the_teacher_each_step() {
        let mean = "projector_decoder_blocks.0.norm1.bn.running_mean";
        let weight = "blocks.0.attn.proj.weight";
        let run = |micro: usize| {
            let store = tiny().store(&Device::Cpu, 0);
            let method = tiny().build(&store).unwrap();
            let teacher = method.stores()[1].1.clone();
            let (start, optimizer) = (values(&store, weight), AdamWConfig::default());
            let mut stepper = Stepper::new(&method, optimizer, Clip::None).unwrap();
            let batches = vec![batch(1); micro];
            let mut step = |iter: usize| {
                let step = StepContext {
                    iter,
                    ..StepContext::new(0)
                };
                stepper.step(&method, &batches, &step, 1e-2).unwrap();
            };
            step(0);
            // Before the first step the teacher equals its student.
            assert_eq!(values(&teacher, weight), start);
            let (moved, own) = (values(&store, weight), values(&teacher, mean));
            step(1);
            let wanted = moved.iter().zip(&start).map(|(new, old)| 0.5 * (new + old));
            for (found, wanted) in values(&teacher, weight).into_iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-7);
            }
            assert!(
                moved
                    .iter()
                    .zip(&start)
                    .any(|(new, old)| (new - old).abs() > 1e-3)
            );
            own
        };
        // After one batch 0.1 of its mean; after the same batch again 0.1 + 0.9 * 0.1.
        for (once, twice) in run(1).into_iter().zip(run(2)) {
            assert!((twice - 1.9 * once).abs() < 1e-5, "{once}, then {twice}");
        }
    }

    #[test]
    fn a_batch_without_a_second_view_or_crops_is_refused() {
        let store = tiny().store(&Device::Cpu, 0);
        let method = tiny().build(&store).unwrap();
        let step = StepContext::new(0);
        let one = Batch::single(batch(0).views[0].clone());
        let error = method.forward(&one, &step).unwrap_err().to_string();
        assert!(error.contains("at least 2 views"), "{error}");
        let mut bare = batch(0);
        bare.views[1].crops.clear();
        let error = method.forward(&bare, &step).unwrap_err().to_string();
        assert!(
            error.contains("crops of view 1") && error.contains("view plan"),
            "{error}"
        );
    }

    #[test]
    fn invalid_settings_are_refused() {
        type Change = fn(&mut SimConfig);
        let changes: [(Change, &str); 5] = [
            (|config| config.projector.embed_dim = 18, "embed_dim"),
            (|config| config.predictor.num_heads = 3, "num_heads"),
            (|config| config.objective.neg_weight = -1., "neg_weight"),
            (|config| config.teacher_norm_eps = 0., "layer_norm_eps"),
            (
                |config| config.momentum = Schedule::constant(f64::NAN),
                "value",
            ),
        ];
        for (change, field) in changes {
            let mut config = tiny();
            change(&mut config);
            let error = config.build(&config.store(&Device::Cpu, 0)).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }

    #[test]
    fn downstream_tasks_use_the_encoder_without_projector() {
        let store = tiny().store(&Device::Cpu, 0);
        let method = tiny().build(&store).unwrap();
        let encoder = method.encoder().unwrap().trunk();
        let image = Tensor::zeros((1, 3, 32, 32), DType::F32, &Device::Cpu).unwrap();
        let (masking, want) = (mim_core::Masking::None, mim_core::EncodeOptions::default());
        let step = StepContext::inference();
        let encoded = encoder.encode(&image, masking, &want, &step).unwrap();
        assert_eq!(encoded.tokens.dims(), [1, 17, 16]);
    }
}
