//! MILAN: Masked Image Pretraining on Language Assisted Representation (Hou et al., 2022, arXiv 2208.06049).
//!
//! Like MAE, with three changes: the decoder predicts CLIP's features of all tokens, it updates only mask tokens, and
//! patches that CLIP attends to are more likely to stay visible. Reference: zejiangh/MILAN @ 7dcfe0f.

mod golden;

use mim_core::augment::ViewPlan;
use mim_core::decoders::{DecoderShape, MaeDecoderConfig, PromptDecoder, PromptOutput};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::objectives::{CosineConfig, RegressionConfig};
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Encoder, Error, Norm, Result};
use mim_masking::{Masker, RandomMaskerConfig, WeightedMaskerConfig};
use mim_targets::{FeatureTarget, FeatureTargetConfig, PatchNorm, PixelTargetConfig};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{Composite, FrozenConfig, MaskMode, MethodConfig};

/// Settings of MILAN; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MilanConfig {
    /// Fraction of patches dropped, in `[0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// Whether the teacher's attention guides which patches stay visible; uniform if not. Default true.
    pub semantic: bool,
    /// Initialisation of the weights. Default `mae`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder.
    pub encoder: VitConfig,
    /// The decoder.
    pub decoder: MaeDecoderConfig,
    /// What is predicted. Default features of CLIP.
    pub target: MilanTarget,
}

/// What MILAN predicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MilanTarget {
    /// The features of a frozen network, compared by cosine.
    ///
    /// Its images have the student's normalisation, as released; set `norm` for another.
    // Parity: CLIP was trained with its own means and deviations; the release does not use them.
    Features(Box<FrozenConfig>),
    /// The pixels of hidden patches (an ablation of the paper).
    Pixels {
        /// Whether each patch is normalised by its own mean and deviation.
        norm_pix_loss: bool,
    },
}

impl Default for MilanTarget {
    fn default() -> Self {
        Self::Features(Box::default())
    }
}

impl Default for MilanConfig {
    fn default() -> Self {
        Self {
            mask_ratio: 0.75,
            semantic: true,
            init: Init::Mae,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig::default(),
            decoder: MaeDecoderConfig::default(),
            target: MilanTarget::default(),
        }
    }
}

impl MilanConfig {
    fn masker(&self) -> Result<Box<dyn Masker>> {
        let Self { mask_ratio, .. } = *self;
        Ok(match (self.semantic, &self.target) {
            (true, MilanTarget::Features(_)) => {
                Box::new(WeightedMaskerConfig { mask_ratio }.build()?)
            }
            (true, MilanTarget::Pixels { .. }) => {
                return Err(Error::config(
                    "milan",
                    "semantic",
                    true,
                    "a pixel target has no attention to guide the mask",
                    "set semantic = false, or target.type = \"features\"",
                ));
            }
            (false, _) => Box::new(RandomMaskerConfig { mask_ratio }.build()?),
        })
    }

    /// The method with this teacher instead of the one from the settings.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        teacher: Option<Box<dyn Encoder>>,
    ) -> Result<Composite> {
        self.norm.check(self.encoder.in_channels)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let views = self
            .views
            .clone()
            .unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(size)));
        let composite =
            Composite::builder("milan", student, encoder, self.masker()?, MaskMode::Drop).input(
                size,
                self.norm.clone(),
                views,
            );
        let decoder = |outputs: usize, output| {
            let shape = DecoderShape::new(self.encoder.grid()?, self.encoder.embed_dim, outputs);
            PromptDecoder::new(&params, &self.decoder, shape, output)
        };
        let weight = Schedule::constant(1.);
        let composite = match (&self.target, teacher) {
            (MilanTarget::Features(frozen), Some(teacher)) => {
                let features = FeatureTargetConfig {
                    class_token: self.encoder.class_token,
                    attention: self.semantic,
                    ..frozen.features(&self.norm)
                };
                let decoder = decoder(teacher.dim(), PromptOutput::All)?;
                let objective = CosineConfig::milan().build()?;
                composite
                    .target("features", FeatureTarget::new(teacher, features)?)
                    .branch(("feature", "features"), decoder, objective, weight)
                    .note(frozen.note())
            }
            (MilanTarget::Features(_), None) => {
                return Err(Error::unsupported(
                    "features without a network",
                    "there is no teacher",
                    "build from the settings",
                ));
            }
            (MilanTarget::Pixels { norm_pix_loss }, _) => {
                let target = PixelTargetConfig {
                    norm: self.norm.clone(),
                    patch_norm: match norm_pix_loss {
                        true => PatchNorm::default(),
                        false => PatchNorm::None,
                    },
                    ..PixelTargetConfig::default()
                };
                let decoder = decoder(self.encoder.patch_values(), PromptOutput::Hidden)?;
                let objective = RegressionConfig::default().build()?;
                composite.target("pixels", target.build()?).branch(
                    ("pixel", "pixels"),
                    decoder,
                    objective,
                    weight,
                )
            }
        };
        composite.build()
    }
}

impl MethodConfig for MilanConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self {
            encoder: VitConfig::arch(arch)?,
            ..Self::default()
        })
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        let teacher = match &self.target {
            MilanTarget::Features(frozen) => {
                Some(frozen.open_for(student.device(), self.encoder.in_channels)?)
            }
            MilanTarget::Pixels { .. } => None,
        };
        self.compose(student, teacher)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "MILAN: Masked Image Pretraining on Language Assisted Representation",
    paper: "Hou et al., 2022, arXiv 2208.06049",
    reference: "zejiangh/MILAN @ 7dcfe0f",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "75 % of the patches; those that CLIP attends to less are hidden more often",
        predicted: "CLIP's features of all patches",
        by: "a prompting decoder that leaves visible tokens as they are",
        loss: "mean squared error of normalised features",
        choose: "Strong results if CLIP's features suit the data.",
    },
    status: "exact: forward, losses, gradients, step, CLIP's features and attention",
    recipes: recipes!("milan_32px", "milan_base"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<MilanConfig>("milan")
};
