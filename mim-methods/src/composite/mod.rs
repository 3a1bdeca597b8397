//! A method as a value: encoder, masker, targets, and branches, each with a decoder and an objective.

mod bootstrap;
mod builder;
mod forward;
mod reconstruct;

pub(crate) use bootstrap::Bootstrap;
pub use builder::CompositeBuilder;

use mim_core::augment::ViewPlan;
use mim_core::params::{Ema, EmaTiming, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{
    Batch, Decoder, Encoder, ImageSize, Input, LossTerms, Mask, MaskMode, Method, Norm, Objective,
    PatchGrid, Reconstruction, Result, StepContext,
};
use mim_masking::{FixedMasker, Masker};
use mim_targets::TargetGenerator;

/// A method made of parts; most papers are values of this type.
///
/// Built by [`Composite::builder`]. A training step runs, in this order: targets that need only the images, the masker,
/// targets that need the mask, the encoder on view 0, targets that need its output, and decoder and objective of each
/// branch.
///
/// ```
/// use candle_core::Device;
/// use mim_core::augment::ViewPlan;
/// use mim_core::decoders::{DecoderShape, MaeDecoder, MaeDecoderConfig};
/// use mim_core::encoders::{Vit, VitConfig};
/// use mim_core::objectives::RegressionConfig;
/// use mim_core::params::{Init, ParamStore};
/// use mim_core::{Method, Norm, Schedule, StepContext};
/// use mim_masking::RandomMaskerConfig;
/// use mim_methods::{Composite, MaskMode};
/// use mim_targets::HogTargetConfig;
///
/// // MAE, but histograms of gradients are predicted instead of pixels.
/// let vit = VitConfig { embed_dim: 16, depth: 1, num_heads: 2, ..VitConfig::small() };
/// let light = MaeDecoderConfig { embed_dim: 16, depth: 1, ..MaeDecoderConfig::small() };
/// let student = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(vit.patch_values()));
/// let encoder = Vit::new(&student.root(), &vit)?;
/// let masker = RandomMaskerConfig { mask_ratio: 0.75 }.build()?;
/// let hog = HogTargetConfig { cell: 4, window: 0, ..HogTargetConfig::default() };
/// let values = 3 * hog.bins; // one cell of three colours in each patch
/// let shape = DecoderShape::new(vit.grid()?, vit.embed_dim, values);
/// let decoder = MaeDecoder::new(&student.root(), &light, shape)?;
/// let mse = RegressionConfig::default().build()?;
///
/// let method = Composite::builder("mae_of_hog", &student, encoder, masker, MaskMode::Drop)
///     .input(32, Norm::imagenet(), ViewPlan::mae(32))
///     .target("hog", hog.build()?)
///     .branch(("cells", "hog"), decoder, mse, Schedule::constant(1.))
///     .build()?;
/// # let pixels = candle_core::Tensor::zeros((1, 3, 32, 32), candle_core::DType::U8, &Device::Cpu)?;
/// # let batch = mim_core::Batch::single(mim_core::View::new(pixels, vec![])?);
/// // `batch` holds images of 32 pixels.
/// let loss = method.forward(&batch, &StepContext::new(0))?;
/// assert_eq!(loss.terms()[0].0, "cells");
/// # Ok::<(), mim_core::Error>(())
/// ```
///
/// `examples/03_compose_a_method.rs` combines two branches and a momentum teacher.
pub struct Composite {
    name: String,
    stores: Vec<(String, ParamStore)>,
    encoder: Box<dyn Encoder>,
    /// The encoder that is evaluated instead, and its name.
    evaluated: Option<(String, Box<dyn Encoder>)>,
    masker: Box<dyn Masker>,
    mode: MaskMode,
    mask_stride: Option<usize>,
    batch_factor: f64,
    input: Input,
    /// Each plan with the epoch from which it applies.
    views: Vec<(usize, ViewPlan)>,
    targets: Vec<(String, Box<dyn TargetGenerator>)>,
    branches: Vec<Branch>,
    emas: Vec<Ema>,
    bootstrap: Option<Bootstrap>,
    notes: Vec<String>,
}

struct Branch {
    name: String,
    target: String,
    decoder: Box<dyn Decoder>,
    objective: Box<dyn Objective>,
    weight: Schedule,
}

impl Composite {
    /// An encoder and a masker, without targets and branches yet; `student` holds the weights.
    pub fn builder(
        name: impl Into<String>,
        student: &ParamStore,
        encoder: impl Encoder + 'static,
        masker: impl Masker + 'static,
        mode: MaskMode,
    ) -> CompositeBuilder {
        CompositeBuilder(Self {
            name: name.into(),
            stores: vec![("student".to_owned(), student.clone())],
            encoder: Box::new(encoder),
            evaluated: None,
            masker: Box::new(masker),
            mode,
            mask_stride: None,
            batch_factor: 1.,
            input: Input {
                size: ImageSize::from(224),
                norm: Norm::imagenet(),
            },
            views: vec![(0, ViewPlan::default())],
            targets: Vec::new(),
            branches: Vec::new(),
            emas: Vec::new(),
            bootstrap: None,
            notes: Vec::new(),
        })
    }

    /// The same method with another masker.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] if the masker needs a guide and has none.
    pub fn with_masker(mut self, masker: impl Masker + 'static) -> Result<Self> {
        self.masker = Box::new(masker);
        builder::check_guide(&self)?;
        Ok(self)
    }

    /// The grid of masks and targets for an image of (height, width) pixels.
    fn mask_grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        let encoders = self.encoder.grid(image)?;
        match self.mask_stride {
            Some(pixels) => PatchGrid::of_image(image, pixels),
            None => Ok(encoders),
        }
    }
}

impl Method for Composite {
    fn name(&self) -> &str {
        &self.name
    }

    fn views(&self, epoch: usize) -> ViewPlan {
        let begun = self.views.iter().filter(|(from, _)| *from <= epoch);
        let now = begun.max_by_key(|(from, _)| *from);
        now.map(|(_, views)| views.clone()).unwrap_or_default()
    }

    fn input(&self) -> &Input {
        &self.input
    }

    fn stores(&self) -> Vec<(&str, &ParamStore)> {
        self.stores
            .iter()
            .map(|(name, store)| (name.as_str(), store))
            .collect()
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        let other = self.evaluated.as_ref().map(|(_, encoder)| encoder.as_ref());
        Some(other.unwrap_or(self.encoder.as_ref()))
    }

    fn encoders(&self) -> Vec<(&str, &dyn Encoder)> {
        let other = self.evaluated.iter();
        let other = other.map(|(name, encoder)| (name.as_str(), encoder.as_ref()));
        other.chain([("student", self.encoder.as_ref())]).collect()
    }

    fn batch_factor(&self) -> f64 {
        self.batch_factor
    }

    fn stages(&self) -> &[usize] {
        match &self.bootstrap {
            Some(bootstrap) => &bootstrap.starts,
            None => &[0],
        }
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let branches: Vec<_> = self.branches.iter().collect();
        let forward = self.run(&branches, batch, step)?;
        let mut terms = LossTerms::default();
        for (branch, prediction) in self.branches.iter().zip(&forward.predictions) {
            let target = forward
                .targets
                .get(branch.target.as_str())
                .ok_or_else(|| builder::no_target(self, branch))?;
            let scope = step.scoped(&branch.name);
            let loss = branch
                .objective
                .loss(prediction, target, &forward.mask, &scope)?;
            step.trace(&format!("loss.{}", branch.name), || loss.total())?;
            terms.extend(loss.prefixed(&branch.name), branch.weight.at(step));
        }
        step.trace("loss", || terms.total())?;
        Ok(terms)
    }

    fn before_step(&self, step: &StepContext) -> Result<()> {
        self.update_teachers(EmaTiming::BeforeStep, step)
    }

    fn after_step(&self, step: &StepContext) -> Result<()> {
        self.update_teachers(EmaTiming::AfterStep, step)
    }

    fn end_epoch(&mut self, step: &StepContext) -> Result<()> {
        self.update_teachers(EmaTiming::EndOfEpoch, step)?;
        match &self.bootstrap {
            Some(bootstrap) => bootstrap.end_epoch(step),
            None => Ok(()),
        }
    }

    fn override_mask(&mut self, mask: Mask) -> Result<()> {
        self.masker = Box::new(FixedMasker::new(mask));
        Ok(())
    }

    fn reconstruct(&self, batch: &Batch, step: &StepContext) -> Result<Reconstruction> {
        self.draw(batch, step)
    }
}

impl std::fmt::Debug for Composite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Composite")
            .field("name", &self.name)
            .field("mode", &self.mode)
            .field(
                "targets",
                &self
                    .targets
                    .iter()
                    .map(|(name, _)| name)
                    .collect::<Vec<_>>(),
            )
            .field(
                "branches",
                &self
                    .branches
                    .iter()
                    .map(|branch| &branch.name)
                    .collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}
