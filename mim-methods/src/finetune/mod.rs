//! Fine-tuning: a pretrained encoder and a linear head, all weights trained with labels.
//!
//! The protocol of MAE (He et al., CVPR 2022, appendix A.1; facebookresearch/mae @ efb2a80, `main_finetune.py`) and BEiT:
//! RandAugment, random erasing, mixup and CutMix, label smoothing, stochastic depth, and learning rates that decrease
//! towards the input (`train.optimizer.layer_decay`). It is a method like the others, so its runs can be resumed,
//! logged and evaluated in the same way. `mim finetune` takes the encoder's settings and weights from a run.

pub(crate) mod golden;
mod method;
mod mixing;
mod rules;

use candle_core::Device;
use mim_core::augment::{Augment, HorizontalFlip, RandAugment, RandomResizedCrop, ViewPlan};
use mim_core::encoders::{EncoderConfig, RelPosBiasKind, VitConfig};
use mim_core::nn::{BatchNorm, LayerNorm, Linear, PosEmbedKind};
use mim_core::params::{Draw, Ema, EmaStart, EmaTiming, Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Input, Norm, Pooling, Result};
use serde::{Deserialize, Serialize};

use crate::MethodConfig;
use crate::registry::Entry;

pub use method::Finetune;
pub use mixing::{CutBox, Mix, MixConfig, erase, mixed_targets};

use method::{Average, Network};

/// Epsilon of the norm before the head of a linear probe.
const HEAD_NORM_EPS: f64 = 1e-6;

/// The name in the registry.
const NAME: &str = "finetune";

/// Settings of fine-tuning; `Default` is MAE's of ViT-B/16 on ImageNet-1k.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Classes of the head. Default 1000.
    pub num_classes: usize,
    /// How tokens are pooled into the feature that enters the head. Default `mean`.
    pub pooling: Pooling,
    /// Whether only the head is trained, on batch-normalised features (MAE's linear probing). Default false.
    pub linear_probe: bool,
    /// Label smoothing: the share of a target spread over all classes. Default 0.1.
    pub label_smoothing: f64,
    /// Mixup and CutMix.
    pub mix: MixConfig,
    /// Probability that a box of an image is replaced by noise. Default 0.25.
    pub erasing_prob: f64,
    /// Momentum of a moving average of the weights, such as 0.9999; the average is evaluated instead of the weights.
    /// None (the default) disables it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Standard deviation of the head's initial weights. Default 2e-5.
    pub head_init_std: f64,
    /// Initialisation of weights that are not loaded. Default `mae`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.08 to 1, bicubic), flip and RandAugment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default: ViT-B/16 with trained positions, stochastic depth of 0.1, and no final norm; instead, a
    /// norm follows the pooling (`fc_norm`).
    pub encoder: EncoderConfig,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl FinetuneConfig {
    fn with_encoder(vit: VitConfig) -> Self {
        Self {
            num_classes: 1000,
            pooling: Pooling::Mean,
            linear_probe: false,
            label_smoothing: 0.1,
            mix: MixConfig::default(),
            erasing_prob: 0.25,
            ema: None,
            head_init_std: 2e-5,
            init: Init::Mae,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig {
                drop_path_rate: 0.1,
                pos_embed: PosEmbedKind::Learned,
                final_norm: false,
                ..vit
            }
            .into(),
        }
    }

    /// Changes the settings of a pretrained encoder to those of fine-tuning: no mask token, trained instead of fixed
    /// positions, a relative bias per block instead of a shared one (BEiT, SimMIM), and with `mean` pooling a ViT's
    /// final norm moves after the pooling.
    pub fn adapt(encoder: &mut EncoderConfig, pooling: Pooling) {
        Self::for_probe(encoder);
        if let EncoderConfig::Vit(vit) = encoder {
            if matches!(
                vit.pos_embed,
                PosEmbedKind::Sincos | PosEmbedKind::SincosRowFirst
            ) {
                vit.pos_embed = PosEmbedKind::Learned;
            }
            if vit.rel_pos_bias == RelPosBiasKind::Shared {
                vit.rel_pos_bias = RelPosBiasKind::PerBlock;
            }
            vit.final_norm = pooling == Pooling::Cls;
            vit.projection_dim = None;
        }
    }

    /// Changes the settings of a pretrained encoder to those of linear probing: no mask token.
    pub fn for_probe(encoder: &mut EncoderConfig) {
        encoder.set_mask_token(false);
    }

    fn network(&self, store: &ParamStore) -> Result<Network> {
        let params = store.root();
        let encoder = self.encoder.build(&params)?;
        let dim = encoder.dim();
        let fc_norm = match &self.encoder {
            EncoderConfig::Vit(vit) if !vit.final_norm => {
                Some(LayerNorm::new(&params.pp("fc_norm"), dim, vit.norm_eps)?)
            }
            _ => None,
        };
        let head_norm = match self.linear_probe {
            true => Some(BatchNorm::new(&params.pp("head_norm"), dim, HEAD_NORM_EPS)?),
            false => None,
        };
        Ok(Network {
            encoder,
            frozen: self.linear_probe,
            pooling: self.pooling,
            fc_norm,
            head_norm,
            head: Linear::new(&params.pp("head"), dim, self.num_classes)?,
            classes: self.num_classes,
        })
    }

    fn average(&self, student: &ParamStore) -> Result<Option<Average>> {
        let Some(momentum) = self.ema else {
            return Ok(None);
        };
        let store = ParamStore::teacher(student.device());
        let network = self.network(&store)?;
        let momentum = Schedule::constant(momentum);
        let ema = Ema::new(
            student,
            &store,
            momentum,
            EmaTiming::AfterStep,
            EmaStart::Copy,
        )?;
        Ok(Some(Average {
            network,
            store,
            ema,
        }))
    }

    fn plan(&self) -> ViewPlan {
        self.views.clone().unwrap_or_else(|| {
            ViewPlan::single(vec![
                Augment::RandomResizedCrop(RandomResizedCrop {
                    size: <(usize, usize)>::from(self.encoder.image_size()).into(),
                    scale: [0.08, 1.],
                    ..Default::default()
                }),
                Augment::HorizontalFlip(HorizontalFlip::default()),
                Augment::RandAugment(RandAugment::default()),
            ])
        })
    }
}

/// The encoder's initial values, and small ones for the head.
struct HeadInit {
    encoder: Box<dyn InitScheme>,
    std: f32,
}

impl InitScheme for HeadInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match name {
            "head.weight" => Draw::TruncNormal {
                std: self.std,
                cut: 2.,
            },
            "head.bias" => Draw::Const(0.),
            _ => self.encoder.draw(name, shape),
        }
    }
}

impl MethodConfig for FinetuneConfig {
    type Method = Finetune;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    fn init(&self) -> Box<dyn InitScheme> {
        Box::new(HeadInit {
            encoder: self.encoder.init(self.init),
            std: self.head_init_std as f32,
        })
    }

    fn store(&self, device: &Device, seed: u64) -> ParamStore {
        match self.linear_probe {
            // The batch norm before the head has no trained weights.
            true => ParamStore::with_frozen(device, seed, self.init(), |name| {
                !name.starts_with("head.")
            }),
            false => ParamStore::new(device, seed, self.init()),
        }
    }

    fn build(&self, student: &ParamStore) -> Result<Finetune> {
        self.check()?;
        let network = self.network(student)?;
        let average = self.average(student)?;
        let channels = self.encoder.in_channels();
        Ok(Finetune {
            student: student.clone(),
            network,
            average,
            input: Input {
                size: self.encoder.image_size(),
                norm: self.norm.clone(),
            },
            views: self.plan().with_channels(channels),
            mix: self.mix.clone(),
            label_smoothing: self.label_smoothing,
            erasing_prob: self.erasing_prob,
            recorded: None,
        })
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Fine-tuning with labels",
    paper: "He et al., CVPR 2022, arXiv 2111.06377, appendix A.1",
    reference: "facebookresearch/mae @ efb2a80",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "nothing",
        predicted: "the label of the image",
        by: "a linear head",
        loss: "cross-entropy with smoothed, mixed labels",
        choose: "To measure an encoder on your task, or to put it to use.",
    },
    status: "exact: forward, loss, gradients, step with layer-wise rates",
    recipes: recipes!(
        "finetune_32px",
        "finetune_base",
        "finetune_large",
        "linprobe_base"
    ),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<FinetuneConfig>(NAME)
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Tensor};
    use mim_core::{Batch, Classifier, Method, StepContext, View};

    fn tiny() -> FinetuneConfig {
        FinetuneConfig {
            num_classes: 3,
            ..FinetuneConfig::with_encoder(VitConfig {
                image_size: 16.into(),
                patch_size: 8,
                embed_dim: 8,
                depth: 1,
                num_heads: 2,
                ..VitConfig::default()
            })
        }
    }

    #[test]
    fn images_without_labels_are_refused() {
        let config = tiny();
        let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let images = Tensor::zeros((2, 3, 16, 16), DType::F32, &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(images, vec![]).unwrap());
        let error = method.forward(&batch, &StepContext::new(0)).unwrap_err();
        assert!(error.to_string().contains("no labels"), "{error}");
    }

    #[test]
    fn an_average_starts_as_the_student_and_classifies() {
        let config = FinetuneConfig {
            ema: Some(0.5),
            ..tiny()
        };
        let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let names: Vec<_> = method.stores().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["student", "ema"]);
        assert_eq!(method.encoders()[0].0, "ema");
        let images = Tensor::ones((1, 3, 16, 16), DType::F32, &Device::Cpu).unwrap();
        let step = StepContext::inference();
        let logits = method.classifier().unwrap().logits(&images, &step).unwrap();
        let own = method.network.logits(&images, &step).unwrap();
        assert_eq!(
            logits.to_vec2::<f32>().unwrap(),
            own.to_vec2::<f32>().unwrap()
        );
    }

    #[test]
    fn a_linear_probe_trains_only_the_head() {
        let mut config = FinetuneConfig {
            linear_probe: true,
            ..tiny()
        };
        let error = config.build(&config.store(&Device::Cpu, 0)).unwrap_err();
        assert!(error.to_string().contains("drop_path_rate"), "{error}");
        let EncoderConfig::Vit(vit) = &mut config.encoder else {
            panic!("the default is a ViT");
        };
        vit.drop_path_rate = 0.;
        let store = config.store(&Device::Cpu, 0);
        let method = config.build(&store).unwrap();
        let names: Vec<_> = store
            .trainable()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["head.bias", "head.weight"]);
        let ones = store.var("head_norm.weight").unwrap();
        assert_eq!(ones.to_vec1::<f32>().unwrap(), [1.; 8]);
        let images = Tensor::rand(0f32, 1., (4, 3, 16, 16), &Device::Cpu).unwrap();
        let mut batch = Batch::single(View::new(images, vec![]).unwrap());
        batch.labels = Some(Tensor::new(&[0u32, 1, 2, 0], &Device::Cpu).unwrap());
        let loss = method
            .forward(&batch, &StepContext::new(0))
            .unwrap()
            .total()
            .unwrap();
        let gradients = loss.backward().unwrap();
        for (name, var) in store.vars() {
            assert_eq!(
                gradients.get(&var).is_some(),
                name.starts_with("head."),
                "{name}"
            );
        }
        let mean = store.var("head_norm.running_mean").unwrap();
        assert_ne!(mean.to_vec1::<f32>().unwrap(), [0.; 8]);
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut FinetuneConfig));
        let wrong: [Wrong; 5] = [
            ("`num_classes` is 1", |c| c.num_classes = 1),
            ("`label_smoothing` is 1", |c| c.label_smoothing = 1.),
            ("`erasing_prob` is 2", |c| c.erasing_prob = 2.),
            ("`ema` is -1", |c| c.ema = Some(-1.)),
            ("`mixup_alpha` is -1", |c| c.mix.mixup_alpha = -1.),
        ];
        for (what, spoil) in wrong {
            let mut config = tiny();
            spoil(&mut config);
            let error = config.build(&config.store(&Device::Cpu, 0)).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
