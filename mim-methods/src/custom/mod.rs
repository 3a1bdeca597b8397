//! Methods put together in a config: any encoder, masker, target, decoder and objective.
//!
//! ```toml
//! method = "custom"
//! scale = "32px"              # what is left out below has sizes for 32-pixel images
//! masker = { type = "blockwise" }
//! target = { type = "hog" }
//! encoder = { type = "swin" }
//! decoder = { type = "linear" }
//! ```
//!
//! Parts that do not fit each other are refused: one batch of noise goes through the method when it is
//! built, and what a part says of it is the error.

mod presets;
mod target;
mod trial;

use mim_core::augment::{Augment, Interpolation, Resize, ViewPlan};
use mim_core::decoders::{DecoderConfig, DecoderShape};
use mim_core::encoders::{EncoderConfig, PixelMasked, VitConfig};
use mim_core::objectives::ObjectiveConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Encoder, Error, Norm, Result, settings};
use mim_masking::{GuideKind, Masker, MaskerConfig, RandomMaskerConfig};
use mim_targets::PixelTargetConfig;
use mim_targets::dvae::DvaeConfig;
use serde::{Deserialize, Serialize};
use toml::Table;

pub use target::{CustomTarget, MomentumConfig, TokensConfig};

use crate::{Composite, MaskMode, MethodConfig};

/// What becomes of hidden patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CustomMasking {
    /// They do not enter the encoder (MAE).
    Drop,
    /// A trained token takes their place (BEiT, SimMIM).
    Replace,
    /// Their pixels are painted over in a trained colour, before any encoder (FastMIM).
    Paint,
}

/// Settings of a composed method. What a part's table leaves out has the part's own defaults, or with
/// `scale = "32px"` sizes for images of 32 pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CustomConfig {
    /// What becomes of hidden patches. If not set: `drop` where encoder or decoder only know that
    /// (ConvMAE; `mae`, `prompt`), `paint` for PVTv2, `replace` for all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masking: Option<CustomMasking>,
    /// Side in pixels of a cell of the mask's grid; the encoder's output stride if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_stride: Option<usize>,
    /// How the weights start; as the encoder's authors do if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip; with tokens a
    /// second, resized view of the same crop for the tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// What is hidden. Default `random`.
    pub masker: MaskerConfig,
    /// The encoder. Default `vit`.
    pub encoder: EncoderConfig,
    /// What is predicted. Default `pixel`.
    pub target: CustomTarget,
    /// What predicts. Default `linear`.
    pub decoder: DecoderConfig,
    /// What a prediction costs; what suits the target if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<ObjectiveConfig>,
}

impl Default for CustomConfig {
    fn default() -> Self {
        Self {
            masking: None,
            mask_stride: None,
            init: None,
            norm: Norm::imagenet(),
            views: None,
            masker: MaskerConfig::Random(RandomMaskerConfig::default()),
            encoder: EncoderConfig::Vit(VitConfig {
                mask_token: true,
                ..VitConfig::default()
            }),
            target: CustomTarget::Pixel(PixelTargetConfig::default()),
            decoder: DecoderConfig::Linear {},
            objective: None,
        }
    }
}

impl CustomConfig {
    fn masking(&self) -> CustomMasking {
        let inferred = match (&self.encoder, &self.decoder) {
            (EncoderConfig::ConvMae(_), _)
            | (_, DecoderConfig::Mae(_) | DecoderConfig::Prompt(_)) => CustomMasking::Drop,
            (EncoderConfig::PvtV2(_), _) => CustomMasking::Paint,
            _ => CustomMasking::Replace,
        };
        self.masking.unwrap_or(inferred)
    }

    fn stride(&self) -> usize {
        self.mask_stride.unwrap_or(self.encoder.output_stride())
    }

    /// The masker; cells are measured in the mask's own grid.
    fn masker(&self) -> Result<Box<dyn Masker>> {
        match &self.masker {
            MaskerConfig::Cell(cell) => {
                let mut cell = cell.clone();
                cell.patch_size = self.stride();
                MaskerConfig::Cell(cell).build()
            }
            other => other.build(),
        }
    }

    /// The encoder's settings, with a mask token where one is needed.
    fn encoder(&self) -> EncoderConfig {
        let mut encoder = self.encoder.clone();
        encoder.set_mask_token(self.masking() == CustomMasking::Replace);
        encoder
    }

    fn plan(&self) -> Result<ViewPlan> {
        if let Some(views) = &self.views {
            return Ok(views.clone());
        }
        let size = <(usize, usize)>::from(self.encoder.image_size());
        let CustomTarget::Tokens(_) = &self.target else {
            return Ok(ViewPlan::mae(size));
        };
        let grid = self.encoder.grid()?;
        let tokens = (
            grid.rows * DvaeConfig::STRIDE,
            grid.cols * DvaeConfig::STRIDE,
        );
        let tokenizer = Augment::Resize(Resize {
            size: tokens.into(),
            interpolation: Interpolation::Lanczos,
        });
        Ok(ViewPlan {
            views: vec![vec![], vec![tokenizer]],
            ..ViewPlan::mae(size)
        })
    }

    fn compose(&self, student: &ParamStore) -> Result<Composite> {
        let (inner, root) = (self.encoder(), student.root());
        self.norm.check(inner.in_channels())?;
        let built = inner.build(&root)?;
        let (encoder, mode): (Box<dyn Encoder>, _) = match self.masking() {
            CustomMasking::Drop => (built, MaskMode::Drop),
            CustomMasking::Replace => (built, MaskMode::Replace),
            CustomMasking::Paint => (
                Box::new(PixelMasked::new(&root, built, inner.in_channels())?),
                MaskMode::Replace,
            ),
        };
        let masker = self.masker()?;
        let guided = masker.guide() == GuideKind::Scores;
        let target = self.target.build(student, &inner, &self.norm, guided)?;
        let shape = DecoderShape {
            inputs: inner.dim(),
            outputs: target.values,
            grid: inner.grid()?,
            cells: target.cells,
        };
        let decoder = self.decoder.build(&root.pp("decoder"), shape)?;
        let objective = self.objective.clone().unwrap_or(self.target.objective());
        let mut composite = Composite::builder("custom", student, encoder, masker, mode)
            .input(inner.image_size(), self.norm.clone(), self.plan()?)
            .target("target", target.generator)
            .branch(
                ("branch", "target"),
                decoder,
                objective.build()?,
                Schedule::constant(1.),
            );
        if let Some(pixels) = self.mask_stride {
            composite = composite.mask_stride(pixels);
        }
        if let Some((store, ema)) = target.teacher {
            composite = composite.teacher("teacher", &store, ema);
        }
        if let Some(note) = target.note {
            composite = composite.note(note);
        }
        composite.build()
    }
}

impl MethodConfig for CustomConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Err(Error::config(
            "custom",
            "arch",
            arch,
            "a composed method has no sizes of its own",
            "set the encoder's, such as encoder.embed_dim",
        ))
    }

    fn resolve(settings: Table) -> Result<Table> {
        let resolved = presets::complete(settings)?;
        let config: Self = settings::read("method", resolved)?;
        crate::method_config::to_table(&config)
    }

    fn init(&self) -> Box<dyn InitScheme> {
        match self.init {
            Some(init) => init.build(self.encoder.patch_values()),
            None => self.encoder.init(Init::Mae),
        }
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        let composite = self.compose(student)?;
        // A network without weights of its own is about to be loaded: nothing to try yet.
        if !student.trainable().is_empty() {
            trial::run(&composite, student.device())?;
        }
        Ok(composite)
    }
}
