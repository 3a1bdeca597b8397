//! data2vec for images: A General Framework for Self-supervised Learning in Speech, Vision and Language (Baevski et
//! al., ICML 2022, arXiv 2202.03555).
//!
//! BEiT's network and masks. One linear layer predicts, for each hidden patch, the mean of the last blocks' outputs of
//! a momentum copy that sees the whole image. Reference: facebookresearch/data2vec_vision @ af9a363.

use mim_core::augment::{Augment, RandomResizedCrop, ViewPlan};
use mim_core::decoders::LinearDecoder;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::objectives::RegressionConfig;
use mim_core::params::{Ema, EmaStart, EmaTiming, Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, Result};
use mim_masking::BlockwiseMaskerConfig;
use mim_targets::{FeatureTarget, FeatureTargetConfig};
use serde::{Deserialize, Serialize};

use crate::beit::{jitter_and_flip, needs_mask_token, vit};
use crate::parity::Problem;
use crate::parity::golden::{
    BEIT_VIT, CONSTANT_MOMENTUM, Golden, Output, Plain, Setting, positions,
};
use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Epsilon of the layer norms of the target.
const TARGET_NORM_EPS: f64 = 1e-5;

/// Settings of data2vec; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data2VecConfig {
    /// The masks. Default: blocks of at least 16 patches up to 120 of 14x14.
    pub masker: BlockwiseMaskerConfig,
    /// How many of the copy's last blocks are averaged, each after a layer norm. Default 6.
    pub average_top_k_layers: usize,
    /// Whether the average is normalised as well. Default true.
    pub post_target_layer_norm: bool,
    /// Where the loss changes from quadratic to linear. Default 2.
    pub beta: f64,
    /// Momentum of the copy. Default 0.9998.
    pub momentum: Schedule,
    /// Initialisation of the weights. Default `beit`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: colour jitter, flip, and random resized crop (scale 0.08 to 1, bicubic).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder, also used by the copy. Default: BEiT's, with a layer scale of 1e-4, stochastic depth of 0.25 and
    /// attention dropout of 0.05; the copy uses no dropout.
    pub encoder: VitConfig,
}

impl Default for Data2VecConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl Data2VecConfig {
    fn with_encoder(size: VitConfig) -> Self {
        Self {
            masker: BlockwiseMaskerConfig::data2vec(),
            average_top_k_layers: 6,
            post_target_layer_norm: true,
            beta: 2.,
            momentum: Schedule::constant(0.9998),
            init: Init::Beit,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig {
                drop_path_rate: 0.25,
                attn_drop_rate: 0.05,
                ..vit(size, 1e-4)
            },
        }
    }

    /// The blocks that are averaged.
    fn layers(&self) -> Result<Vec<usize>> {
        let (count, depth) = (self.average_top_k_layers, self.encoder.depth);
        if count == 0 || count > depth {
            let why = format!("the encoder has {depth} blocks");
            let (field, fix) = ("average_top_k_layers", format!("use 1 to {depth}"));
            return Err(Error::config("data2vec", field, count, why, fix));
        }
        Ok((depth - count..depth).collect())
    }

    /// The momentum copy of encoder and head in its own store, and its EMA.
    fn teacher(&self, student: &ParamStore) -> Result<(Vit, ParamStore, Ema)> {
        let store = ParamStore::teacher(student.device());
        let copy = Vit::new(&store.root(), &self.encoder)?;
        // Parity: the release copies the whole model; the copy's head is never used.
        self.head(&store)?;
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

    /// The linear layer after the encoder, as wide as its blocks.
    fn head(&self, store: &ParamStore) -> Result<LinearDecoder> {
        LinearDecoder::new(
            &store.root(),
            self.encoder.output_dim(),
            self.encoder.embed_dim,
        )
    }

    fn plan(&self) -> ViewPlan {
        self.views.clone().unwrap_or_else(|| {
            let mut shared = jitter_and_flip();
            shared.push(Augment::RandomResizedCrop(RandomResizedCrop {
                size: <(usize, usize)>::from(self.encoder.image_size).into(),
                scale: [0.08, 1.],
                ..Default::default()
            }));
            ViewPlan::single(shared)
        })
    }
}

impl MethodConfig for Data2VecConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.encoder.validate()?;
        self.norm.check(self.encoder.in_channels)?;
        self.momentum.validate()?;
        needs_mask_token("data2vec", &self.encoder)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let layers = self.layers()?;
        let encoder = Vit::new(&params, &self.encoder)?;
        let decoder = self.head(student)?;
        let (copy, store, ema) = self.teacher(student)?;
        let features = FeatureTargetConfig {
            norm: self.norm.clone(),
            layers,
            layers_norm_eps: Some(TARGET_NORM_EPS),
            layer_norm_eps: self.post_target_layer_norm.then_some(TARGET_NORM_EPS),
            ..Default::default()
        };
        let masker = self.masker.build()?;
        Composite::builder("data2vec", student, encoder, masker, MaskMode::Replace)
            .input(size, self.norm.clone(), self.plan())
            .teacher("teacher", &store, ema)
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

/// Its golden cases.
const GOLDEN: Golden<Data2VecConfig> = Golden {
    settings: &[
        BEIT_VIT,
        CONSTANT_MOMENTUM,
        Setting::Fixed("target_layer_norm_each", Plain::Bool(true)),
        Setting::Fixed("target_norm_eps", Plain::Float(1e-5)),
        Setting::Renamed("target_layer_norm_post", "post_target_layer_norm"),
        Setting::Renamed("smooth_l1_beta", "beta"),
    ],
    also: |case, config| {
        positions(case, &mut config.encoder)?;
        let (depth, key) = (config.encoder.depth, "target_layers_zero_based");
        let layers: Vec<usize> = case.setting_or(key, vec![])?;
        config.average_top_k_layers = layers.len();
        match layers
            .iter()
            .copied()
            .eq(depth.saturating_sub(layers.len())..depth)
        {
            true => Ok(()),
            false => Err(Problem::unknown(format!(
                "data2vec on blocks other than the last ones, {layers:?}"
            ))),
        }
    },
    outputs: &[
        (
            "teacher_last_layer",
            Output::By(|made, recorded| {
                let last = made.config.encoder.depth - 1;
                let tokens = recorded.get(&format!("teacher.block{last}"))?;
                Ok(tokens.narrow(1, 1, tokens.dim(1)? - 1)?)
            }),
        ),
        ("target", Output::Hidden("target.features")),
        ("pred", Output::Hidden("pred.feature")),
    ],
    ..Golden::new("beit", |config| config.encoder.grid())
};

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language",
    paper: "Baevski et al., ICML 2022, arXiv 2202.03555",
    reference: "facebookresearch/data2vec_vision @ af9a363",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "about 60 % of the patches, in blocks; a mask token replaces them",
        predicted: "the mean of the last blocks of a momentum copy that sees the whole image",
        by: "one linear layer",
        loss: "smooth L1 on hidden patches",
        choose: "Self-distillation without augmentations of colour or crops of several sizes.",
    },
    status: "exact: targets, forward, loss, gradients, step, teacher",
    recipes: recipes!("data2vec_32px", "data2vec_base"),
    parity: |case, device| GOLDEN.setup(case, device),
    ..Entry::new::<Data2VecConfig>("data2vec")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::Method;

    fn tiny() -> Data2VecConfig {
        Data2VecConfig {
            average_top_k_layers: 2,
            ..Data2VecConfig::with_encoder(VitConfig {
                image_size: 32.into(),
                patch_size: 8,
                embed_dim: 16,
                depth: 2,
                num_heads: 2,
                ..VitConfig::default()
            })
        }
    }

    #[test]
    fn base_is_as_published() {
        let base = Data2VecConfig::default();
        assert_eq!(Data2VecConfig::arch("vit_base").unwrap(), base);
        assert_eq!(base.layers().unwrap(), [6, 7, 8, 9, 10, 11]);
        let vit = &base.encoder;
        assert_eq!(
            (vit.layer_scale_init, vit.attn_drop_rate, vit.drop_path_rate),
            (Some(1e-4), 0.05, 0.25)
        );
    }

    #[test]
    fn the_copy_starts_with_the_students_weights_and_head() {
        let config = tiny();
        let store = config.store(&Device::Cpu, 0);
        let method = config.build(&store).unwrap();
        let [(_, student), ("teacher", teacher)] = method.stores()[..] else {
            panic!("other stores");
        };
        assert_eq!(teacher.names().len(), student.names().len());
        let values = |store: &ParamStore, name: &str| {
            let var = store.var(name).unwrap();
            var.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        for (name, _) in teacher.names() {
            assert_eq!(values(teacher, &name), values(student, &name), "{name}");
        }
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut Data2VecConfig));
        let wrong: [Wrong; 5] = [
            ("use 1 to 2", |c| c.average_top_k_layers = 3),
            ("`average_top_k_layers` is 0", |c| {
                c.average_top_k_layers = 0;
            }),
            ("`beta` is 0", |c| c.beta = 0.),
            ("`attn_drop_rate` is 1", |c| c.encoder.attn_drop_rate = 1.),
            ("`encoder.mask_token` is false", |c| {
                c.encoder.mask_token = false;
            }),
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
