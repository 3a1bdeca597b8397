//! iBOT: Image BERT Pre-Training with Online Tokenizer (Zhou et al., ICLR 2022, arXiv 2111.07832), and
//! AttMask: What to Hide from Your Students: Attention-Guided Masked Image Modeling (Kakogeorgiou et
//! al., ECCV 2022, arXiv 2203.12719).
//!
//! A momentum teacher is the online tokenizer of its student: class tokens agree across crops of an image, hidden
//! patches with the teacher's tokens at their positions. AttMask hides the patches that the teacher attends to.
//! References: bytedance/ibot @ da316d8, gkakogeorgiou/attmask @ 9f62061.

mod crops;
pub(crate) mod golden;
mod masker;
mod method;
mod tower;

use candle_core::Device;
use mim_core::augment::ViewPlan;
use mim_core::encoders::{EncoderConfig, SwinConfig, VitConfig};
use mim_core::nn::{DinoHeadConfig, PosEmbedKind};
use mim_core::objectives::SelfDistillationConfig;
use mim_core::params::{Ema, EmaStart, EmaTiming, Init, InitScheme, ParamStore};
use mim_core::schedule::{Per, Schedule};
use mim_core::{Error, Input, Norm, Result};
use mim_masking::{GuideKind, IbotBlockMaskerConfig, Masker};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use crops::CropsConfig;
pub use masker::NamingMasker;
pub use method::Ibot;

use self::tower::Tower;
use crate::MethodConfig;
use crate::registry::Entry;

/// Settings of iBOT.
pub type IbotConfig = DistillationConfig<IbotBlockMaskerConfig>;

/// Settings of iBOT ([`IbotConfig`]) and AttMask ([`AttMaskConfig`](crate::AttMaskConfig)); `Default` is ViT-S/16 as in their released
/// recipes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    bound = "M: Serialize + DeserializeOwned + Default + NamingMasker"
)]
pub struct DistillationConfig<M> {
    /// Momentum of the teacher: the share that each step keeps. Default: from 0.996 to 1 along a half cosine.
    pub momentum: Schedule,
    /// Whether the student's class tokens and patches share the last layer of the head. Default true.
    pub shared_head: bool,
    /// The same for the teacher. Default true.
    pub shared_head_teacher: bool,
    /// Whether the rows of the last layer keep unit length. Default false.
    pub norm_last_layer: bool,
    /// Initialisation of the weights. Default `ibot`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// The crops of an image.
    pub crops: CropsConfig,
    /// Augmentation instead of that of `crops`; the first `crops.global` views are global crops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// Patches hidden from the student in global crops.
    pub masker: M,
    /// The loss.
    pub objective: SelfDistillationConfig,
    /// The head, in student and teacher.
    pub head: DinoHeadConfig,
    /// The encoder. Default: ViT with learned positions for any image size, a mask token, and stochastic depth in the
    /// student only; a `type` in the settings replaces all of this.
    pub encoder: EncoderConfig,
}

impl<M: NamingMasker> Default for DistillationConfig<M> {
    fn default() -> Self {
        let small = VitConfig {
            embed_dim: 384,
            num_heads: 6,
            ..VitConfig::default()
        };
        Self::with_encoder(vit(small).into())
    }
}

/// iBOT's variant of a ViT.
fn vit(size: VitConfig) -> VitConfig {
    VitConfig {
        any_size: true,
        drop_path_rate: 0.1,
        pos_embed: PosEmbedKind::Learned,
        mask_token: true,
        ..size
    }
}

/// iBOT's variant of a Swin.
fn swin(arch: &str) -> Result<SwinConfig> {
    Ok(SwinConfig {
        image_size: 224.into(),
        pad: true,
        window_size: 7,
        norm_eps: 1e-6,
        drop_path_rate: if arch == "swin_tiny" { 0.1 } else { 0.2 },
        ..SwinConfig::arch(arch)?
    })
}

impl<M: NamingMasker> DistillationConfig<M> {
    fn with_encoder(encoder: EncoderConfig) -> Self {
        Self {
            momentum: Schedule::Cosine {
                start: 0.996,
                end: 1.,
                per: Per::Iter,
            },
            shared_head: true,
            shared_head_teacher: true,
            norm_last_layer: false,
            init: Init::Ibot,
            norm: Norm::imagenet(),
            crops: CropsConfig::default(),
            views: None,
            masker: M::default(),
            objective: SelfDistillationConfig::default(),
            head: DinoHeadConfig::default(),
            encoder,
        }
    }

    /// The teacher's encoder, without a mask token.
    fn teacher_encoder(&self) -> EncoderConfig {
        let mut encoder = self.encoder.clone();
        encoder.set_mask_token(false);
        encoder
    }

    fn plan(&self) -> Result<ViewPlan> {
        let plan = match &self.views {
            Some(views) => views.clone(),
            None => self.crops.plan(self.encoder.image_size()),
        };
        let (global, all) = (self.crops.global, plan.views.len());
        if global == 0 || all < global.max(2) {
            return Err(Error::config(
                M::METHOD,
                "crops.global",
                global,
                format!(
                    "it must be at least 1 and at most the number of views, which must be at least 2; there are {all} views"
                ),
                "use 2 global crops",
            ));
        }
        plan.check()?;
        Ok(plan.with_channels(self.encoder.in_channels()))
    }

    fn masker(&self) -> Result<Box<dyn Masker>> {
        let masker = self.masker.masker()?;
        self.encoder.grid()?;
        if masker.guide() == GuideKind::Scores && matches!(self.encoder, EncoderConfig::Swin(_)) {
            return Err(Error::config(
                M::METHOD,
                "encoder.type",
                "swin",
                "AttMask needs class-token attention, which Swin lacks",
                "use a ViT",
            ));
        }
        Ok(masker)
    }

    /// Initialises the teacher from the student, and returns the EMA between them.
    fn follow(&self, student: &ParamStore, teacher: &ParamStore) -> Result<Ema> {
        let (momentum, when) = (self.momentum.clone(), EmaTiming::AfterStep);
        let ema = Ema::of_common(student, teacher, momentum, when, EmaStart::Copy)?;
        // Parity: the release copies by name. A shared layer has two names, and the second, the patches' layer, wins.
        let layer = |shared: bool| if shared { "last_layer" } else { "last_layer2" };
        for part in ["weight_g", "weight_v"] {
            let name = |shared: bool| format!("head.{}.{part}", layer(shared));
            let own = teacher.var(&name(self.shared_head_teacher));
            if let (Some(own), Some(value)) = (own, student.var(&name(self.shared_head))) {
                own.set(&value.as_detached_tensor())?;
            }
        }
        Ok(ema)
    }
}

impl<M> MethodConfig for DistillationConfig<M>
where
    M: NamingMasker + Serialize + DeserializeOwned,
{
    type Method = Ibot;

    fn arch(arch: &str) -> Result<Self> {
        let known = SwinConfig::archs().any(|known| known == arch);
        Ok(Self::with_encoder(match known {
            true => swin(arch)?.into(),
            false => vit(VitConfig::arch(arch)?).into(),
        }))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn store(&self, device: &Device, seed: u64) -> ParamStore {
        match self.norm_last_layer {
            false => ParamStore::new(device, seed, self.init()),
            true => ParamStore::with_frozen(device, seed, self.init(), |name| {
                name.ends_with("weight_g")
            }),
        }
    }

    fn build(&self, student: &ParamStore) -> Result<Ibot> {
        self.norm.check(self.encoder.in_channels())?;
        self.momentum.validate()?;
        let (head, teacher) = (&self.head, ParamStore::teacher(student.device()));
        let (own, others) = (self.shared_head, self.shared_head_teacher);
        let (patch_dim, other) = (head.patch_dim(own), head.patch_dim(others));
        if patch_dim != other {
            return Err(Error::config(
                M::METHOD,
                "head.patch_out_dim",
                self.head.patch_out_dim,
                format!("student and teacher would have {patch_dim} and {other} logits per patch"),
                "set it to head.out_dim, or share the last layer in both",
            ));
        }
        let (views, masker) = (self.plan()?, self.masker()?);
        let objective = &self.objective;
        let built = Ibot {
            name: M::METHOD,
            input: Input {
                size: self.encoder.image_size(),
                norm: self.norm.clone(),
            },
            views,
            globals: self.crops.global,
            masker,
            student: Tower::new(&student.root(), &self.encoder, head, own)?,
            teacher: Tower::new(&teacher.root(), &self.teacher_encoder(), head, others)?,
            objective: objective.build(&teacher.root(), (head.out_dim, patch_dim))?,
            ema: self.follow(student, &teacher)?,
            stores: [("student", student.clone()), ("teacher", teacher)],
        };
        Ok(built)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "iBOT: Image BERT Pre-Training with Online Tokenizer",
    paper: "Zhou et al., ICLR 2022, arXiv 2111.07832",
    reference: "bytedance/ibot @ da316d8",
    archs: &[
        "vit_tiny",
        "vit_small",
        "vit_base",
        "vit_large",
        "swin_tiny",
        "swin_small",
        "swin_base",
        "swin_large",
    ],
    about: crate::registry::About {
        hidden: "blocks of 10 to 50 % of the patches of half of the global crops",
        predicted: "what a momentum teacher assigns to hidden patches and to other crops",
        by: "projection heads with prototypes",
        loss: "cross-entropy of patch tokens and class tokens, centred",
        choose: "The best k-NN and linear accuracy here; many crops, so the most expensive step.",
    },
    status: "exact with ViT and Swin: forward, losses, centres, gradients, step, teacher",
    recipes: recipes!("ibot_32px", "ibot_small", "ibot_base", "ibot_swin_tiny"),
    parity: |case, device| IbotConfig::GOLDEN.setup(case, device),
    ..Entry::new::<IbotConfig>("ibot")
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AttMaskConfig;
    use candle_core::{DType, Tensor};
    use mim_core::optim::{AdamWConfig, Clip};
    use mim_core::train::Stepper;
    use mim_core::{Batch, EncodeOptions, Error, Masking, Method, StepContext, View};
    use mim_masking::RatioRange;

    fn tiny<M: NamingMasker>() -> DistillationConfig<M> {
        DistillationConfig {
            crops: CropsConfig {
                local: 1,
                local_size: 8.into(),
                ..CropsConfig::default()
            },
            head: DinoHeadConfig {
                out_dim: 6,
                patch_out_dim: 6,
                hidden_dim: 8,
                bottleneck_dim: 4,
                ..DinoHeadConfig::default()
            },
            momentum: Schedule::constant(0.75),
            encoder: vit(VitConfig {
                image_size: 16.into(),
                patch_size: 4,
                embed_dim: 8,
                depth: 1,
                num_heads: 2,
                ..VitConfig::default()
            })
            .into(),
            ..DistillationConfig::default()
        }
    }

    /// Two global crops and one local crop of two images.
    fn batch() -> Batch {
        let view = |side: usize, factor: usize| {
            let bytes = (0..2 * 3 * side * side).map(|at| (at * factor % 251).to_le_bytes()[0]);
            let bytes: Vec<u8> = bytes.collect();
            let pixels = Tensor::from_vec(bytes, (2, 3, side, side), &Device::Cpu).unwrap();
            View::new(pixels, vec![]).unwrap()
        };
        Batch {
            views: vec![view(16, 7), view(16, 11), view(8, 13)],
            ..Batch::single(view(16, 7))
        }
    }

    fn build<M>(config: &DistillationConfig<M>) -> (ParamStore, Ibot)
    where
        M: NamingMasker + Serialize + DeserializeOwned,
    {
        let store = config.store(&Device::Cpu, 3);
        let method = config.build(&store).unwrap();
        (store, method)
    }

    fn values(store: &ParamStore, name: &str) -> Vec<f32> {
        let var = store.var(name).unwrap();
        var.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_default_is_the_released_recipe() {
        let config = IbotConfig::default();
        assert_eq!(config, IbotConfig::arch("vit_small").unwrap());
        let EncoderConfig::Vit(vit) = &config.encoder else {
            panic!("the default is a ViT");
        };
        assert_eq!((vit.embed_dim, vit.depth, vit.num_heads), (384, 12, 6));
        assert_eq!((vit.norm_eps, vit.drop_path_rate), (1e-6, 0.1));
        assert_eq!((config.head.out_dim, config.head.hidden_dim), (8192, 2048));
        assert_eq!(config.plan().unwrap().views.len(), 12);
        let half = StepContext {
            epoch: 50,
            epochs: 100,
            ..StepContext::new(0)
        };
        assert!((config.momentum.at(&half) - 0.998).abs() < 1e-12);
        let EncoderConfig::Swin(swin) = IbotConfig::arch("swin_small").unwrap().encoder else {
            panic!("the size is a Swin");
        };
        assert!(swin.pad && swin.window_size == 7 && swin.drop_path_rate == 0.2);
        assert_eq!(swin.stage_window(3).unwrap(), (7, 0));
        assert_eq!(AttMaskConfig::default().masker.masking_prob, 0.5);
    }

    #[test]
    fn the_teacher_starts_from_the_students_patch_layer_and_follows_its_other() {
        let config = IbotConfig {
            shared_head: false,
            ..tiny()
        };
        let (student, method) = build(&config);
        let teacher = method.stores()[1].1.clone();
        let (own, other) = ("head.last_layer.weight_v", "head.last_layer2.weight_v");
        assert!(teacher.var(other).is_none() && teacher.var("mask_token").is_none());
        let start = values(&student, other);
        assert_eq!(values(&teacher, own), start);
        assert_ne!(values(&student, own), start);
        let mut stepper = Stepper::new(&method, AdamWConfig::default(), Clip::None).unwrap();
        let step = StepContext::new(0);
        stepper.step(&method, &[batch()], &step, 1e-2).unwrap();
        let moved = values(&student, own);
        for ((found, start), moved) in values(&teacher, own).iter().zip(start).zip(moved) {
            assert!((found - (0.75 * start + 0.25 * moved)).abs() < 1e-6);
        }
        assert!(
            values(&teacher, "center")
                .iter()
                .any(|center| *center != 0.)
        );
    }

    #[test]
    fn a_teacher_with_an_additional_layer_keeps_it() {
        let config = IbotConfig {
            shared_head_teacher: false,
            ..tiny()
        };
        let (student, method) = build(&config);
        let teacher = method.stores()[1].1.clone();
        let name = "head.last_layer2.weight_v";
        let start = values(&student, "head.last_layer.weight_v");
        assert_eq!(values(&teacher, name), start);
        method.after_step(&StepContext::new(0)).unwrap();
        assert_eq!(values(&teacher, name), start);
    }

    #[test]
    fn without_hidden_patches_gradients_are_zero_but_present() {
        let mut config: IbotConfig = tiny();
        config.masker.start_epoch = 1;
        config.shared_head = false;
        let (student, method) = build(&config);
        let terms = method.forward(&batch(), &StepContext::new(0)).unwrap();
        let patch: f32 = terms.terms()[1].1.to_scalar().unwrap();
        assert_eq!(patch, 0.);
        let grads = terms.total().unwrap().backward().unwrap();
        for (name, var) in student.trainable() {
            let grad = grads.get(&var).unwrap().abs().unwrap();
            let largest: f32 = grad.max_all().unwrap().to_scalar().unwrap();
            let patches_only = name == "mask_token" || name.contains("last_layer2");
            assert_eq!(largest == 0., patches_only, "{name}: {largest}");
        }
    }

    #[test]
    fn attention_guides_the_masks_of_global_crops() {
        let mut config: AttMaskConfig = tiny();
        config.masker.masking_prob = 1.;
        config.masker.ratio = RatioRange {
            mean: 0.5,
            spread: 0.,
        };
        let (_, method) = build(&config);
        let terms = method.forward(&batch(), &StepContext::new(0)).unwrap();
        assert!(terms.terms()[1].1.to_scalar::<f32>().unwrap() > 0.);
        let swin = AttMaskConfig {
            encoder: swin("swin_tiny").unwrap().into(),
            ..tiny()
        };
        let error = swin.build(&swin.store(&Device::Cpu, 0)).unwrap_err();
        assert!(error.to_string().contains("use a ViT"), "{error}");
    }

    #[test]
    fn both_encoders_can_be_evaluated_and_reconstruction_is_refused() {
        let (student, method) = build(&tiny::<IbotBlockMaskerConfig>());
        let names: Vec<&str> = method.encoders().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["teacher", "student"]);
        let zeros = Tensor::zeros((1, 1, 8), DType::F32, &Device::Cpu).unwrap();
        student.var("cls_token").unwrap().set(&zeros).unwrap();
        let image = Tensor::ones((1, 3, 16, 16), DType::F32, &Device::Cpu).unwrap();
        let tokens = |encoder: &dyn mim_core::Encoder| -> Vec<f32> {
            let (want, step) = (EncodeOptions::default(), StepContext::inference());
            let encoded = encoder.encode(&image, Masking::None, &want, &step).unwrap();
            encoded.tokens.flatten_all().unwrap().to_vec1().unwrap()
        };
        let (first, chosen) = (method.encoders()[0].1, method.encoder().unwrap());
        assert_eq!(tokens(first), tokens(chosen));
        assert_ne!(tokens(chosen), tokens(method.encoders()[1].1));
        let error = method.reconstruct(&batch(), &StepContext::inference());
        assert!(matches!(error, Err(Error::Unsupported { .. })));
    }

    #[test]
    fn settings_and_batches_that_do_not_fit_are_refused() {
        type Change = fn(&mut IbotConfig);
        let changes: [(Change, &str); 4] = [
            (|config| config.crops.global = 0, "crops.global"),
            (
                |config| (config.crops.global, config.crops.local) = (1, 0),
                "crops.global",
            ),
            (
                |config| (config.shared_head, config.head.patch_out_dim) = (false, 5),
                "patch_out_dim",
            ),
            (|config| config.objective.student_temp = -1., "student_temp"),
        ];
        for (change, part) in changes {
            let mut config = tiny();
            change(&mut config);
            let error = config.build(&config.store(&Device::Cpu, 0)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        let (_, method) = build(&tiny::<IbotBlockMaskerConfig>());
        let step = StepContext::new(0);
        let mut swapped = batch();
        swapped.views.swap(1, 2);
        let error = method.forward(&swapped, &step).unwrap_err().to_string();
        assert!(error.contains("global crops"), "{error}");
        let one = Batch::single(batch().views[0].clone());
        let error = method.forward(&one, &step).unwrap_err().to_string();
        assert!(error.contains("at least 2 views"), "{error}");
    }
}
