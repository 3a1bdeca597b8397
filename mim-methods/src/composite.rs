//! A method as a value: encoder, masker, targets, and branches of decoder and objective.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use mim_core::augment::ViewPlan;
use mim_core::params::{Ema, ParamStore, When};
use mim_core::schedule::Schedule;
use mim_core::{
    Batch, DecodeContext, Decoder, Encoded, Encoder, Error, ImageSize, Input, LossTerms, Mask,
    Masking, Method, Norm, Objective, PatchGrid, Prediction, Purpose, Reconstruction, Result, Rows,
    StepContext, Target, Want,
};
use mim_masking::{FixedMasker, Guide, GuideKind, MaskRequest, Masker};
use mim_targets::{Needs, TargetGenerator, TargetRequest};

/// What becomes of hidden patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskMode {
    /// They do not enter the encoder (MAE).
    Drop,
    /// A mask token takes their place (BEiT, SimMIM).
    Replace,
}

/// A method made of parts: most papers are values of this type.
///
/// One training step: targets that need only the images, guide, mask, targets that need the mask,
/// encoder (view 0), targets that need the student, then for each branch decoder and objective.
pub struct Composite {
    name: String,
    stores: Vec<(String, ParamStore)>,
    encoder: Box<dyn Encoder>,
    /// Draws the masks.
    pub masker: Box<dyn Masker>,
    mode: MaskMode,
    input: Input,
    views: ViewPlan,
    targets: Vec<(String, Box<dyn TargetGenerator>)>,
    branches: Vec<Branch>,
    emas: Vec<Ema>,
}

struct Branch {
    name: String,
    target: String,
    decoder: Box<dyn Decoder>,
    objective: Box<dyn Objective>,
    weight: Schedule,
}

/// What one forward pass computes before the objectives.
struct Forward<'a> {
    mask: Mask,
    targets: BTreeMap<&'a str, Target>,
    predictions: Vec<Prediction>,
}

impl Composite {
    /// An encoder and a masker, without targets and branches yet; `student` holds the weights.
    pub fn new(
        name: impl Into<String>,
        student: &ParamStore,
        encoder: impl Encoder + 'static,
        masker: impl Masker + 'static,
        mode: MaskMode,
    ) -> Self {
        Self {
            name: name.into(),
            stores: vec![("student".to_owned(), student.clone())],
            encoder: Box::new(encoder),
            masker: Box::new(masker),
            mode,
            input: Input {
                size: ImageSize::from(224),
                norm: Norm::imagenet(),
            },
            views: ViewPlan::default(),
            targets: Vec::new(),
            branches: Vec::new(),
            emas: Vec::new(),
        }
    }

    /// The images the encoder takes, and how images become views. Default: 224 pixels, ImageNet's
    /// normalisation, and one view that is the image as it is.
    #[must_use]
    pub fn input(mut self, size: impl Into<ImageSize>, norm: Norm, views: ViewPlan) -> Self {
        self.input = Input {
            size: size.into(),
            norm,
        };
        self.views = views.with_channels(self.input.channels());
        self
    }

    /// Adds a target under a name.
    #[must_use]
    pub fn target(
        mut self,
        name: impl Into<String>,
        target: impl TargetGenerator + 'static,
    ) -> Self {
        self.targets.push((name.into(), Box::new(target)));
        self
    }

    /// Adds a branch: `decoder`'s prediction compared with the target named `target`.
    #[must_use]
    pub fn branch(
        mut self,
        (name, target): (&str, &str),
        decoder: impl Decoder + 'static,
        objective: impl Objective + 'static,
        weight: Schedule,
    ) -> Self {
        self.branches.push(Branch {
            name: name.to_owned(),
            target: target.to_owned(),
            decoder: Box::new(decoder),
            objective: Box::new(objective),
            weight,
        });
        self
    }

    /// Adds a momentum teacher: its store is saved, and `ema` keeps it up to date.
    #[must_use]
    pub fn teacher(mut self, name: impl Into<String>, store: &ParamStore, ema: Ema) -> Self {
        self.stores.push((name.into(), store.clone()));
        self.emas.push(ema);
        self
    }

    fn run(&self, batch: &Batch, step: &StepContext) -> Result<Forward<'_>> {
        let view = batch.view(0)?;
        let grid = self.encoder.grid(view.size())?;
        let mut targets = BTreeMap::new();
        let mut request = TargetRequest {
            batch,
            grid,
            mask: None,
            student: None,
            step,
        };
        self.generate(Needs::Image, &request, &mut targets)?;
        let mask = self.mask(batch, grid, &targets, step)?;
        request.mask = Some(&mask);
        self.generate(Needs::Mask, &request, &mut targets)?;
        let masking = match self.mode {
            MaskMode::Drop => Masking::Drop(&mask),
            MaskMode::Replace => Masking::Replace(&mask),
        };
        let encoded = self.encoder.encode(
            &view.normalized(&self.input.norm)?,
            masking,
            &self.want(),
            step,
        )?;
        let request = TargetRequest {
            student: Some(&encoded),
            ..request
        };
        self.generate(Needs::Student, &request, &mut targets)?;
        let predictions = self.predict(batch, &mask, &encoded, step)?;
        Ok(Forward {
            mask,
            targets,
            predictions,
        })
    }

    fn generate<'a>(
        &'a self,
        needs: Needs,
        request: &TargetRequest<'_>,
        targets: &mut BTreeMap<&'a str, Target>,
    ) -> Result<()> {
        for (name, generator) in self
            .targets
            .iter()
            .filter(|(_, generator)| generator.needs() == needs)
        {
            let target = generator.generate(request)?;
            request
                .step
                .trace(&format!("target.{name}"), || Ok(target.patches.clone()))?;
            targets.insert(name, target);
        }
        Ok(())
    }

    fn mask(
        &self,
        batch: &Batch,
        grid: PatchGrid,
        targets: &BTreeMap<&str, Target>,
        step: &StepContext,
    ) -> Result<Mask> {
        let scores: Vec<f32>;
        let parts: Vec<u32>;
        let guide = match self.masker.guide() {
            GuideKind::None => Guide::None,
            GuideKind::Scores => {
                let attention = targets
                    .values()
                    .find_map(|target| target.attention.as_ref());
                let attention =
                    attention.ok_or_else(|| self.no_guide("a target with attention"))?;
                scores = attention.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
                Guide::Scores(&scores)
            }
            GuideKind::Parts => {
                let ids = batch
                    .extras
                    .get("part_id")
                    .ok_or_else(|| self.no_guide("the batch's `part_id`"))?;
                parts = ids.to_dtype(DType::U32)?.flatten_all()?.to_vec1()?;
                Guide::Parts(&parts)
            }
        };
        let request = MaskRequest {
            images: batch.len(),
            grid,
            guide,
            step,
        };
        self.masker
            .sample(&request, &mut step.rng(Purpose::Mask, 0))
    }

    fn no_guide(&self, wanted: &str) -> Error {
        Error::unsupported(
            format!("the masker of {}", self.name),
            format!("it is guided by {wanted}, which is not there"),
            "add it, or choose a masker that needs no guide",
        )
    }

    /// The union of what the decoders read.
    fn want(&self) -> Want {
        let mut layers: Vec<usize> = self
            .branches
            .iter()
            .flat_map(|branch| branch.decoder.layers())
            .copied()
            .collect();
        layers.sort_unstable();
        layers.dedup();
        Want {
            layers,
            ..Want::default()
        }
    }

    fn predict(
        &self,
        batch: &Batch,
        mask: &Mask,
        encoded: &Encoded,
        step: &StepContext,
    ) -> Result<Vec<Prediction>> {
        let cx = DecodeContext {
            encoded,
            mask,
            batch,
            step,
        };
        let predict = |branch: &Branch| {
            let prediction = branch.decoder.decode(&cx)?;
            step.trace(&format!("pred.{}", branch.name), || {
                Ok(prediction.values.clone())
            })?;
            Ok(prediction)
        };
        self.branches.iter().map(predict).collect()
    }

    fn update_teachers(&self, now: When, step: &StepContext) -> Result<()> {
        self.emas.iter().try_for_each(|ema| ema.update(now, step))
    }
}

impl Method for Composite {
    fn name(&self) -> &str {
        &self.name
    }

    fn views(&self, _epoch: usize) -> ViewPlan {
        self.views.clone()
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
        Some(self.encoder.as_ref())
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let forward = self.run(batch, step)?;
        let mut terms = LossTerms::default();
        for (branch, prediction) in self.branches.iter().zip(&forward.predictions) {
            let target = forward.targets.get(branch.target.as_str()).ok_or_else(|| {
                Error::unsupported(
                    format!("the branch `{}` of {}", branch.name, self.name),
                    format!("it has no target `{}`", branch.target),
                    "add the target under that name",
                )
            })?;
            let loss = branch
                .objective
                .loss(prediction, target, &forward.mask, step)?;
            terms.extend(loss.prefixed(&branch.name), branch.weight.at(step));
        }
        step.trace("loss", || terms.total())?;
        Ok(terms)
    }

    fn before_step(&self, step: &StepContext) -> Result<()> {
        self.update_teachers(When::BeforeStep, step)
    }

    fn after_step(&self, step: &StepContext) -> Result<()> {
        self.update_teachers(When::AfterStep, step)
    }

    fn end_epoch(&mut self, step: &StepContext) -> Result<()> {
        self.update_teachers(When::EndOfEpoch, step)
    }

    fn override_mask(&mut self, mask: Mask) -> Result<()> {
        self.masker = Box::new(FixedMasker::new(mask));
        Ok(())
    }

    fn reconstruct(&self, batch: &Batch, step: &StepContext) -> Result<Reconstruction> {
        let whole = StepContext {
            trace: Some(std::sync::Arc::new(NoTrace)),
            ..step.clone()
        };
        let forward = self.run(batch, &whole)?;
        for (branch, prediction) in self.branches.iter().zip(&forward.predictions) {
            let Some((_, target)) = self.targets.iter().find(|(name, _)| *name == branch.target)
            else {
                continue;
            };
            if prediction.rows != Rows::Patches {
                continue;
            }
            if let Some(predicted) = target.to_pixels(&prediction.values, batch)? {
                return blend(batch, &self.input.norm, &forward.mask, &predicted);
            }
        }
        Err(Error::unsupported(
            format!("a reconstruction by {}", self.name),
            "none of its branches predicts pixels",
            "use a method with a pixel target",
        ))
    }
}

/// Visible pixels from the batch, hidden ones from `predicted` (in `[0, 1]`).
fn blend(batch: &Batch, norm: &Norm, mask: &Mask, predicted: &Tensor) -> Result<Reconstruction> {
    let view = batch.view(0)?;
    let original = match view.pixels().dtype() {
        DType::U8 => view.unit()?,
        _ => norm.invert(view.pixels())?,
    };
    let (height, width) = view.size();
    let hidden = mask
        .upsample(PatchGrid::new(height, width))?
        .bits(original.device())?;
    let hidden = hidden.reshape((mask.rows(), 1, height, width))?;
    let visible = original.broadcast_mul(&(1. - &hidden)?)?;
    Ok(Reconstruction {
        masked: visible.broadcast_add(&(&hidden * 0.5)?)?,
        reconstruction: (visible + predicted.clamp(0f32, 1f32)?.broadcast_mul(&hidden)?)?,
        original,
    })
}

/// Makes decoders predict whole images; keeps nothing.
struct NoTrace;

impl mim_core::TraceSink for NoTrace {
    fn record(&self, _name: &str, _value: &Tensor) -> Result<()> {
        Ok(())
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
