//! Training of VQ-KD.

use candle_core::Tensor;
use mim_core::augment::ViewPlan;
use mim_core::encoders::Vit;
use mim_core::nn::Quantized;
use mim_core::objectives::Cosine;
use mim_core::params::ParamStore;
use mim_core::{
    Batch, EncodeOptions, Encoder, Input, LossTerms, Mask, Masking, Method, Objective, PatchGrid,
    Prediction, Result, Rows, StepContext, Tokenizer,
};
use mim_targets::vqkd::{TaskLayer, VqKdTokenizer};
use mim_targets::{TargetGenerator, TargetRequest};

use super::NAME;
use crate::tokens::{draws_no_masks, log_usage, untrained};

/// The training part of a tokenizer: from its codes to the teacher's features.
pub(super) struct Head {
    pub(super) decoder: Vit,
    pub(super) task: TaskLayer,
    pub(super) target: Box<dyn TargetGenerator>,
}

/// Training of VQ-KD.
///
/// Its intermediates are `pre_quant`, `codes`, `reconstruction`, `loss.reconstruction`, `loss.commitment`, and
/// `decoder.*` from its decoder.
pub struct VqKd {
    pub(super) student: ParamStore,
    pub(super) input: Input,
    pub(super) views: ViewPlan,
    pub(super) tokenizer: VqKdTokenizer,
    pub(super) head: Option<Head>,
    pub(super) objective: Cosine,
    pub(super) commitment_weight: f64,
    pub(super) note: Option<String>,
}

impl VqKd {
    /// The teacher's features, predicted by the decoder from codes `[batch * patches, dim]`.
    fn decode(
        &self,
        head: &Head,
        codes: &Tensor,
        grid: PatchGrid,
        step: &StepContext,
    ) -> Result<Tensor> {
        let dim = codes.dim(1)?;
        let map = codes.reshape(((), grid.rows, grid.cols, dim))?;
        let map = map.permute((0, 3, 1, 2))?.contiguous()?;
        let step = step.scoped("decoder");
        let decoded = head
            .decoder
            .encode(&map, Masking::None, &EncodeOptions::default(), &step)?;
        head.task.forward(&decoded.patches()?)
    }

    /// The mean of `1 - cos` over all patches.
    fn distance(
        &self,
        values: Tensor,
        head: &Head,
        (batch, grid): (&Batch, PatchGrid),
        step: &StepContext,
    ) -> Result<Tensor> {
        let target = head.target.generate(&TargetRequest {
            batch,
            grid,
            mask: None,
            student: None,
            step,
        })?;
        let prediction = Prediction {
            values,
            rows: Rows::Patches,
            grid,
        };
        let nothing = Mask::from_bits(grid, &vec![0; batch.len() * grid.len()])?;
        self.objective
            .loss(&prediction, &target, &nothing, step)?
            .total()
    }
}

impl Method for VqKd {
    fn name(&self) -> &str {
        NAME
    }

    fn views(&self, _epoch: usize) -> ViewPlan {
        self.views.clone()
    }

    fn input(&self) -> &Input {
        &self.input
    }

    fn stores(&self) -> Vec<(&str, &ParamStore)> {
        vec![("student", &self.student)]
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        Some(self.tokenizer.encoder())
    }

    fn tokenizer(&self) -> Option<&dyn Tokenizer> {
        Some(&self.tokenizer)
    }

    fn notes(&self) -> Vec<String> {
        self.note.clone().into_iter().collect()
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let head = self.head.as_ref().ok_or_else(|| untrained(NAME))?;
        let view = batch.view(0)?;
        let grid = self.tokenizer.encoder().grid(view.size())?;
        let images = view.normalized(&self.input.norm)?;
        let latents = self.tokenizer.latents(&images, step)?;
        step.trace("pre_quant", || Ok(latents.clone()))?;
        let quantized = self
            .tokenizer
            .codebook()
            .quantize(&latents.flatten(0, 1)?, step)?;
        let Quantized {
            codes,
            vectors,
            commitment,
            usage,
        } = quantized;
        step.trace("codes", || Ok(codes.reshape((batch.len(), grid.len()))?))?;
        let predicted = self.decode(head, &vectors, grid, step)?;
        step.trace("reconstruction", || Ok(predicted.clone()))?;
        let distance = self.distance(predicted, head, (batch, grid), step)?;
        step.trace("loss.reconstruction", || Ok(distance.clone()))?;
        step.trace("loss.commitment", || {
            Ok((&commitment * self.commitment_weight)?)
        })?;
        let mut terms = LossTerms::single("reconstruction", distance)?;
        terms.push("commitment", commitment, self.commitment_weight)?;
        log_usage(&mut terms, usage)?;
        step.trace("loss", || terms.total())?;
        Ok(terms)
    }

    fn override_mask(&mut self, _mask: Mask) -> Result<()> {
        Err(draws_no_masks(NAME))
    }
}

impl std::fmt::Debug for VqKd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VqKd")
            .field("tokenizer", &self.tokenizer)
            .finish_non_exhaustive()
    }
}
