//! iBOT: Image BERT Pre-Training with Online Tokenizer (Zhou et al., ICLR 2022, arXiv 2111.07832), and
//! AttMask: What to Hide from Your Students: Attention-Guided Masked Image Modeling (Kakogeorgiou et
//! al., ECCV 2022, arXiv 2203.12719).
//!
//! A momentum teacher is the tokenizer of its own student: class tokens agree across crops of an
//! image, hidden patches with what the teacher sees at their place. AttMask hides what the teacher
//! attends to. References: bytedance/ibot @ da316d8, gkakogeorgiou/attmask @ 9f62061.

mod crops;
mod method;
mod tower;

use candle_core::Device;
use mim_core::augment::ViewPlan;
use mim_core::encoders::{EncoderConfig, SwinConfig, VitConfig};
use mim_core::nn::{DinoHeadConfig, PosEmbedKind};
use mim_core::objectives::SelfDistillationConfig;
use mim_core::params::{Ema, Init, InitScheme, ParamStore, Start, When};
use mim_core::schedule::{Per, Schedule};
use mim_core::{Error, Input, Norm, Result};
use mim_masking::{AttentionMaskerConfig, GuideKind, IbotBlockMaskerConfig, Masker};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use crops::CropsConfig;
pub use method::Ibot;

use self::tower::Tower;
use crate::MethodConfig;

/// Settings of iBOT.
pub type IbotConfig = DistillationConfig<IbotBlockMaskerConfig>;

/// Settings of AttMask.
pub type AttMaskConfig = DistillationConfig<AttentionMaskerConfig>;

/// Settings of a masker that names a method.
pub trait NamingMasker: Default + Clone + PartialEq + std::fmt::Debug {
    /// The method's name in the registry.
    const METHOD: &'static str;

    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] naming the setting.
    fn masker(&self) -> Result<Box<dyn Masker>>;
}

impl NamingMasker for IbotBlockMaskerConfig {
    const METHOD: &'static str = "ibot";

    fn masker(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

impl NamingMasker for AttentionMaskerConfig {
    const METHOD: &'static str = "attmask";

    fn masker(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Settings of iBOT ([`IbotConfig`]) and AttMask ([`AttMaskConfig`]); `Default` is ViT-S/16 as in
/// the recipes they release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    bound = "M: Serialize + DeserializeOwned + Default + NamingMasker"
)]
pub struct DistillationConfig<M> {
    /// Share of the teacher that each step keeps. Default: 0.996, to 1 in a half cosine.
    pub momentum: Schedule,
    /// Whether the student's class tokens and patches share the last layer of the head. Default true.
    pub shared_head: bool,
    /// The same of the teacher. Default true.
    pub shared_head_teacher: bool,
    /// Whether the lengths of the last layer's rows stay one. Default false.
    pub norm_last_layer: bool,
    /// How the weights start. Default `ibot`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// The crops of an image.
    pub crops: CropsConfig,
    /// Augmentation, in place of that of `crops`; the first `crops.global` views are global crops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// Patches hidden from the student in global crops.
    pub masker: M,
    /// The loss.
    pub objective: SelfDistillationConfig,
    /// The head, in student and teacher.
    pub head: DinoHeadConfig,
    /// The encoder. Default: ViT with learned positions for any image size, a mask token and
    /// stochastic depth, which the teacher goes without; a `type` in the settings replaces all of this.
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

    /// The teacher's encoder: nothing is dropped and nothing masked in it.
    fn teacher_encoder(&self) -> EncoderConfig {
        match self.encoder.clone() {
            EncoderConfig::Vit(config) => EncoderConfig::Vit(VitConfig {
                drop_path_rate: 0.,
                mask_token: false,
                ..config
            }),
            EncoderConfig::Swin(config) => EncoderConfig::Swin(SwinConfig {
                drop_path_rate: 0.,
                mask_token: false,
                ..config
            }),
        }
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
                format!("there must be one or more, and two or more views; there are {all}"),
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
                "the masks follow the attention of a class token, which it has not",
                "use a ViT",
            ));
        }
        Ok(masker)
    }

    /// Ties the teacher to the student, and starts it from there.
    fn follow(&self, student: &ParamStore, teacher: &ParamStore) -> Result<Ema> {
        let (momentum, when) = (self.momentum.clone(), When::AfterStep);
        let ema = Ema::of_common(student, teacher, momentum, when, Start::Copy)?;
        // Parity: the release copies by names, of which a shared layer has two, the patches' last.
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
                format!("student and teacher would give {patch_dim} and {other} logits of a patch"),
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
