//! CAPI: Cluster and Predict Latent Patches for Improved Masked Image Modeling (Darcet et al., TMLR 2025, arXiv
//! 2502.08769).
//!
//! A momentum teacher sees the whole image; a linear head, trained at the same time, assigns its patches to clusters.
//! The student sees one block and predicts the clusters of some other patches. Reference: facebookresearch/capi @ 98b4fa1.

pub(crate) mod golden;
mod method;

use mim_core::augment::{RandomResizedCrop, ViewPlan};
use mim_core::decoders::RopePredictorConfig;
use mim_core::encoders::RopeVitConfig;
use mim_core::nn::OnlineClusteringConfig;
use mim_core::params::{Ema, EmaStart, EmaTiming, Init, InitScheme, ParamStore};
use mim_core::schedule::{Schedule, Warmup};
use mim_core::{Error, Input, Norm, Result};
use mim_masking::InverseBlockMaskerConfig;
use serde::{Deserialize, Serialize};

pub use method::Capi;

use self::method::Tower;
use crate::MethodConfig;
use crate::registry::Entry;

/// (name, width, depth, heads); the last one is released.
const SIZES: [(&str, usize, usize, usize); 3] = [
    ("vit_small", 384, 12, 6),
    ("vit_base", 768, 12, 12),
    ("vit_large", 1024, 24, 16),
];

/// Settings of CAPI; `Default` is ViT-L/14 as released.
///
/// The release's two optimizers are parameter groups of one optimizer here, since they share no parameter: see the
/// recipes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapiConfig {
    /// Which patches are visible and which are predicted.
    pub masker: InverseBlockMaskerConfig,
    /// Momentum of the teacher. Default: from 1 to 0.999 in a tenth of the run, then back, nearly to 1.
    pub momentum: Schedule,
    /// Temperature of the student's logits. Default 0.12.
    pub student_temp: f64,
    /// The clusters.
    pub clustering: OnlineClusteringConfig,
    /// Initialisation of the weights. Default `capi`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.6 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder, also used by the teacher. Default: 16 registers, stochastic depth of 0.2.
    pub encoder: RopeVitConfig,
    /// The predictor.
    pub predictor: RopePredictorConfig,
}

impl Default for CapiConfig {
    fn default() -> Self {
        Self {
            masker: InverseBlockMaskerConfig::default(),
            momentum: Schedule::LongCosine {
                peak: 0.999,
                min: 1.,
                warmup_start: 1.,
                warmup: Warmup::Share(0.1),
                share: 0.8,
                closed: true,
            },
            student_temp: 0.12,
            clustering: OnlineClusteringConfig::default(),
            init: Init::Capi,
            norm: Norm::imagenet(),
            views: None,
            encoder: RopeVitConfig::default(),
            predictor: RopePredictorConfig::default(),
        }
    }
}

impl CapiConfig {
    fn check(&self) -> Result<()> {
        self.encoder.validate()?;
        self.norm.check(self.encoder.in_channels)?;
        self.momentum.validate()?;
        if self.student_temp > 0. && self.student_temp.is_finite() {
            return Ok(());
        }
        let (field, why) = ("student_temp", "it must be positive");
        Err(Error::config(
            "capi",
            field,
            self.student_temp,
            why,
            "use 0.12",
        ))
    }
}

impl MethodConfig for CapiConfig {
    type Method = Capi;

    fn arch(arch: &str) -> Result<Self> {
        let found = SIZES.iter().find(|(name, ..)| *name == arch);
        let &(_, embed_dim, depth, num_heads) = found.ok_or_else(|| {
            let names = SIZES.map(|(name, ..)| name).join(", ");
            let (why, fix) = ("it is not a known size", format!("use one of {names}"));
            Error::config("capi", "arch", arch, why, fix)
        })?;
        let mut config = Self::default();
        (config.encoder.embed_dim, config.encoder.depth) = (embed_dim, depth);
        // As wide as the encoder and half as deep.
        (config.predictor.embed_dim, config.predictor.depth) = (embed_dim, depth / 2);
        (config.encoder.num_heads, config.predictor.num_heads) = (num_heads, num_heads);
        Ok(config)
    }

    fn init(&self) -> Box<dyn InitScheme> {
        let patch = self.encoder.patch_size;
        self.init.build(patch * patch * self.encoder.in_channels)
    }

    fn build(&self, student: &ParamStore) -> Result<Capi> {
        self.check()?;
        let size = self.encoder.image_size;
        let masker = self.masker.build()?;
        masker.counts(self.encoder.grid()?)?;
        let clusters = self.clustering.num_clusters;
        let tower = |store: &ParamStore| {
            Tower::new(&store.root(), &self.encoder, &self.predictor, clusters)
        };
        let store = ParamStore::teacher(student.device());
        let (own, copy) = (tower(student)?, tower(&store)?);
        let momentum = self.momentum.clone();
        let ema = Ema::new(
            student,
            &store,
            momentum,
            EmaTiming::AfterStep,
            EmaStart::Copy,
        )?;
        let head = student.root().pp("clustering_head");
        let views = self.views.clone().unwrap_or_else(|| {
            ViewPlan::crop_and_flip(RandomResizedCrop {
                size: <(usize, usize)>::from(size).into(),
                scale: [0.6, 1.],
                ..RandomResizedCrop::default()
            })
        });
        Ok(Capi {
            clustering: self.clustering.build(&head, self.encoder.embed_dim)?,
            stores: [("student", student.clone()), ("teacher", store)],
            input: Input {
                size,
                norm: self.norm.clone(),
            },
            views: views.with_channels(self.norm.mean.len()),
            masker: Box::new(masker),
            student: own,
            teacher: copy,
            student_temp: self.student_temp,
            ema,
        })
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Cluster and Predict Latent Patches for Improved Masked Image Modeling",
    paper: "Darcet et al., TMLR 2025, arXiv 2502.08769",
    reference: "facebookresearch/capi @ 98b4fa1",
    archs: &["vit_small", "vit_base", "vit_large"],
    about: crate::registry::About {
        hidden: "65 % of the patches: all but one block; a few of them are predicted",
        predicted: "the clusters of their features in a momentum teacher, learned at the same time",
        by: "blocks of cross-attention to the visible tokens, and a linear head",
        loss: "cross-entropy, and one more for the clustering head",
        choose: "Frozen features of patches, for segmentation; batches must be large.",
    },
    status: "exact: masks, clusters, forward, losses, gradients, both steps, teacher",
    recipes: recipes!("capi_32px", "capi_large"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<CapiConfig>("capi")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::{Batch, Method, StepContext, View};

    fn tiny() -> CapiConfig {
        let mut config = CapiConfig::default();
        config.encoder = RopeVitConfig {
            image_size: 32.into(),
            patch_size: 8,
            embed_dim: 16,
            depth: 1,
            num_heads: 2,
            num_registers: 4,
            ..config.encoder
        };
        (config.predictor.embed_dim, config.predictor.depth) = (8, 1);
        config.predictor.num_heads = 2;
        config.clustering.num_clusters = 5;
        config.masker.pred_ratio = 0.3;
        config
    }

    #[test]
    fn parameter_counts_match_the_formulas() {
        let block = |dim: usize, context: usize, heads: usize| {
            2 * dim * dim + 2 * dim * context + 8 * dim * dim + 2 * dim + 2 * dim / heads
        };
        let backbone =
            |patch: usize, (dim, depth): (usize, usize), (width, blocks): (usize, usize), heads| {
                let tokens = (patch + 1) * dim + width;
                tokens + depth * block(dim, dim, heads) + blocks * block(width, dim, heads)
            };
        let config = tiny();
        let store = config.store(&Device::Cpu, 0);
        config.build(&store).unwrap();
        let heads = 5 * (8 + 1) + 5 * (16 + 1);
        let all = backbone(192, (16, 1), (8, 1), 2) + 4 * 16 + heads;
        assert_eq!(store.trainable_values(), all);
        assert_eq!(24 * block(1024, 1024, 16), 302_042_112);
        assert_eq!(12 * block(1024, 1024, 16), 151_021_056);
        let large = backbone(588, (1024, 24), (1024, 12), 16) + 16 * 1024;
        assert_eq!(large, 453_683_712);
        assert_eq!(
            CapiConfig::arch("vit_large").unwrap(),
            CapiConfig::default()
        );
    }

    #[test]
    fn the_teacher_is_an_ema_of_the_student_except_for_the_clusters() {
        let config = CapiConfig {
            momentum: Schedule::constant(0.5),
            ..tiny()
        };
        let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let [(_, student), ("teacher", teacher)] = method.stores()[..] else {
            panic!("other stores");
        };
        assert!(teacher.var("clustering_head.layer.weight").is_none());
        let values = |store: &ParamStore, name: &str| {
            let var = store.var(name).unwrap();
            var.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        for (name, _) in teacher.names() {
            assert_eq!(values(teacher, &name), values(student, &name), "{name}");
        }
        let pixels = Tensor::rand(0f32, 1f32, (3, 3, 32, 32), &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels, vec![]).unwrap());
        let step = StepContext::new(0);
        let terms = method.forward(&batch, &step).unwrap();
        let names: Vec<_> = terms
            .terms()
            .iter()
            .map(|(name, ..)| name.as_str())
            .collect();
        assert_eq!(names, ["capi", "clustering"]);
        let moved = student.var("head.last_layer.weight_g").unwrap();
        moved.set(&(moved.as_tensor() * 3.).unwrap()).unwrap();
        method.after_step(&step).unwrap();
        assert_eq!(values(teacher, "head.last_layer.weight_g"), [2.; 5]);
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut CapiConfig));
        let wrong: [Wrong; 6] = [
            ("`pred_ratio` is 0.05", |c| c.masker.pred_ratio = 0.05),
            ("`student_temp` is 0", |c| c.student_temp = 0.),
            ("`num_registers` is 3", |c| c.encoder.num_registers = 3),
            ("`num_heads` is 3", |c| c.predictor.num_heads = 3),
            ("`depth` is 0", |c| c.predictor.depth = 0),
            ("`num_clusters` is 0", |c| c.clustering.num_clusters = 0),
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
