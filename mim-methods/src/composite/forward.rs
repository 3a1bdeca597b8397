//! One forward pass of a composite, up to the predictions.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use mim_core::params::EmaTiming;
use mim_core::{
    Batch, DecodeContext, EncodeOptions, Encoded, Error, Mask, MaskMode, PatchGrid, Prediction,
    Purpose, Result, StepContext, Target,
};
use mim_masking::{Guide, GuideKind, MaskRequest};
use mim_targets::{TargetRequest, TargetStage};

use super::{Branch, Composite};

/// Results of one forward pass before the objectives.
pub(super) struct Forward<'a> {
    pub(super) mask: Mask,
    pub(super) targets: BTreeMap<&'a str, Target>,
    pub(super) predictions: Vec<Prediction>,
}

impl Composite {
    /// Runs `branches` of this composite, with the targets needed by them and by the masker.
    pub(super) fn run<'a>(
        &'a self,
        branches: &[&Branch],
        batch: &Batch,
        step: &StepContext,
    ) -> Result<Forward<'a>> {
        let view = batch.view(0)?;
        let grid = self.mask_grid(view.size())?;
        let mut targets = BTreeMap::new();
        let mut request = TargetRequest {
            batch,
            grid,
            mask: None,
            student: None,
            step,
        };
        let guided = self.masker.guide() != GuideKind::None;
        let needed = |name: &str| guided || branches.iter().any(|branch| branch.target == name);
        self.generate(TargetStage::Image, &needed, &request, &mut targets)?;
        let mask = self.mask(batch, grid, &targets, step)?;
        step.trace_mask(&mask)?;
        step.trace("mask", || mask.bits(view.pixels().device()))?;
        request.mask = Some(&mask);
        self.generate(TargetStage::Mask, &needed, &request, &mut targets)?;
        let image = view.normalized(&self.input.norm)?;
        let encoded = self.encode(&image, &mask, &want(branches), step)?;
        let request = TargetRequest {
            student: Some(&encoded),
            ..request
        };
        self.generate(TargetStage::Student, &needed, &request, &mut targets)?;
        let cx = DecodeContext {
            encoded: &encoded,
            mask: &mask,
            batch,
            step,
        };
        let predictions = branches
            .iter()
            .map(|branch| predict(branch, &cx))
            .collect::<Result<_>>()?;
        Ok(Forward {
            mask,
            targets,
            predictions,
        })
    }

    /// Encodes the visible patches. Each set of visible patches of an image is encoded once, for all predictions.
    fn encode(
        &self,
        image: &Tensor,
        mask: &Mask,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        let distinct = match self.mode {
            MaskMode::Drop => mask.distinct_visible(image.dim(0)?),
            MaskMode::Replace | MaskMode::Paint | MaskMode::Causal => None,
        };
        let Some((distinct, times)) = distinct else {
            return self
                .encoder
                .encode(image, self.mode.masking(mask), want, step);
        };
        let masking = self.mode.masking(&distinct);
        let encoded = self.encoder.encode(image, masking, want, step)?;
        let again = |xs: &Tensor| Tensor::cat(&vec![xs; times], 0);
        let layers = encoded.layers.iter();
        Ok(Encoded {
            tokens: again(&encoded.tokens)?,
            layers: layers
                .map(|(index, xs)| Ok((*index, again(xs)?)))
                .collect::<Result<_>>()?,
            cls_attention: encoded.cls_attention.as_ref().map(again).transpose()?,
            ..encoded
        })
    }

    fn generate<'a>(
        &'a self,
        stage: TargetStage,
        needed: &dyn Fn(&str) -> bool,
        request: &TargetRequest<'_>,
        targets: &mut BTreeMap<&'a str, Target>,
    ) -> Result<()> {
        for (name, generator) in self
            .targets
            .iter()
            .filter(|(name, generator)| generator.stage() == stage && needed(name))
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
                // Exactly one has it: `CompositeBuilder::build` has checked that.
                let attention = targets
                    .values()
                    .find_map(|target| target.attention.as_ref());
                let attention =
                    attention.ok_or_else(|| self.no_guide("a target with attention"))?;
                scores = attention.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
                Guide::Scores(&scores)
            }
            GuideKind::Parts => {
                let mut made = self.targets.iter().filter(|(_, target)| target.has_parts());
                let made = made.find_map(|(name, _)| Some(&targets.get(name.as_str())?.patches));
                let ids = made
                    .or_else(|| batch.extras.get("part_id"))
                    .ok_or_else(|| self.no_guide("part maps, or the batch's `part_id`,"))?;
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
            format!("it needs {wanted} as guide"),
            "provide it, or choose a masker without a guide",
        )
    }

    pub(super) fn update_teachers(&self, now: EmaTiming, step: &StepContext) -> Result<()> {
        self.emas.iter().try_for_each(|ema| ema.update(now, step))
    }
}

/// The union of what all decoders read.
fn want(branches: &[&Branch]) -> EncodeOptions {
    let mut layers: Vec<usize> = branches
        .iter()
        .flat_map(|branch| branch.decoder.layers())
        .copied()
        .collect();
    layers.sort_unstable();
    layers.dedup();
    EncodeOptions {
        layers,
        ..EncodeOptions::default()
    }
}

fn predict(branch: &Branch, cx: &DecodeContext<'_>) -> Result<Prediction> {
    let prediction = branch.decoder.decode(&DecodeContext {
        step: &cx.step.scoped(&branch.name),
        ..*cx
    })?;
    cx.step.trace(&format!("pred.{}", branch.name), || {
        Ok(prediction.values.clone())
    })?;
    Ok(prediction)
}
