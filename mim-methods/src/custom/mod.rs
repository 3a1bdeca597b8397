//! Methods composed in a config: any encoder, masker, target, decoder and objective of a registry.
//!
//! ```toml
//! method = "custom"
//! scale = "32px"              # defaults for 32-pixel images
//! masker = { type = "blockwise" }
//! target = { type = "hog" }
//! encoder = { type = "swin" }
//! decoder = { type = "linear" }
//! ```
//!
//! Parts that do not fit each other are refused. To find out, the method runs once on a batch of noise when it is
//! built; the error of the failing part is reported.

mod settings;
mod trial;

use candle_core::Device;
use mim_core::decoders::{DecoderSettings, DecoderShape, TokensNeeded};
use mim_core::encoders::{EncoderSettings, PixelMasked};
use mim_core::objectives::ObjectiveSettings;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Encoder, MaskMode, Method, Result};
use mim_masking::{GuideKind, Masker, MaskerSettings};
use mim_targets::{TargetContext, TargetSettings};
use toml::Table;

use self::settings::CustomConfig;
use crate::Composite;
use crate::registry::{Entry, Registry};

/// All settings: `settings` over the defaults of the parts.
///
/// # Errors
///
/// If a part or a setting is unknown, or a setting is of another type.
pub(crate) fn resolve(registry: &Registry, settings: Table) -> Result<Table> {
    let complete = settings::complete(registry, settings)?;
    Custom::read(registry, complete)?.into_table()
}

/// Builds the method from its settings. Without a seed its weights are not trainable.
///
/// # Errors
///
/// If a setting is invalid, or the parts do not fit each other.
pub(crate) fn build(
    registry: &Registry,
    settings: Table,
    device: &Device,
    seed: Option<u64>,
) -> Result<Box<dyn Method>> {
    let custom = Custom::read(registry, settings)?;
    let store = match seed {
        Some(seed) => ParamStore::new(device, seed, custom.init()),
        None => ParamStore::teacher(device),
    };
    let composite = custom.compose(&store)?;
    // Without a seed, weights are about to be loaded: nothing to run yet.
    if seed.is_some() {
        trial::run(&composite, device)?;
    }
    Ok(Box::new(composite))
}

/// Settings of a composed method, each part parsed by its type.
struct Custom {
    config: CustomConfig,
    masking: MaskMode,
    masker: Box<dyn MaskerSettings>,
    encoder: Box<dyn EncoderSettings>,
    target: Box<dyn TargetSettings>,
    decoder: Box<dyn DecoderSettings>,
    objective: Option<Box<dyn ObjectiveSettings>>,
}

impl Custom {
    /// Initialisation of the weights.
    fn init(&self) -> Box<dyn InitScheme> {
        match self.config.init {
            Some(init) => init.build(self.encoder.patch_values()),
            None => self.encoder.init(Init::Mae),
        }
    }

    fn compose(&self, student: &ParamStore) -> Result<Composite> {
        let (settings, root) = (&self.encoder, student.root());
        let norm = &self.config.norm;
        norm.check(settings.in_channels())?;
        let built = settings.build(&root)?;
        let encoder: Box<dyn Encoder> = match self.masking {
            MaskMode::Drop | MaskMode::Replace | MaskMode::Causal => built,
            MaskMode::Paint => Box::new(PixelMasked::new(&root, built, settings.in_channels())?),
        };
        let masker: Box<dyn Masker> = self.masker.build()?;
        let target = self.target.build(&TargetContext {
            student,
            encoder: settings.as_ref(),
            norm,
            attention: masker.guide() == GuideKind::Scores,
        })?;
        let shape = DecoderShape {
            inputs: settings.dim(),
            outputs: target.values,
            grid: settings.grid()?,
            cells: target.cells,
        };
        let decoder = self.decoder.build(&root.pp("decoder"), shape)?;
        let objective = match &self.objective {
            Some(objective) => objective.build()?,
            None => self.target.objective().build()?,
        };
        let views = match &self.config.views {
            Some(views) => views.clone(),
            None => self.target.views(settings.as_ref())?,
        };
        let weight = Schedule::constant(1.);
        let mut composite = Composite::builder("custom", student, encoder, masker, self.masking)
            .input(settings.image_size(), norm.clone(), views)
            .target("target", target.generator)
            .branch(("branch", "target"), decoder, objective, weight);
        if let Some(pixels) = self.config.mask_stride {
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

/// How hidden patches are masked: as set, or as decoder and encoder need.
fn masking(
    asked: Option<MaskMode>,
    encoder: &dyn EncoderSettings,
    decoder: &dyn DecoderSettings,
) -> MaskMode {
    asked.unwrap_or_else(|| match decoder.tokens() {
        TokensNeeded::Visible => MaskMode::Drop,
        TokensNeeded::All => encoder.hiding(),
    })
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    name: "custom",
    title: "Any parts joined by a config",
    paper: "no paper",
    reference: "none",
    archs: &[],
    about: crate::registry::About {
        hidden: "as its masker says",
        predicted: "as its target says",
        by: "as its decoder says",
        loss: "as its objective says",
        choose: "New combinations of parts, from a config alone.",
    },
    status: "its parts are those of the other methods",
    recipes: recipes!("custom_32px"),
    clouds: false,
    resolve,
    build,
    parity: crate::parity::none,
};
