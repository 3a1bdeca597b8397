//! The training step of SemMAE's part learning.

use candle_core::Tensor;
use mim_core::augment::ViewPlan;
use mim_core::decoders::StyleDecoder;
use mim_core::params::ParamStore;
use mim_core::{
    Batch, EncodeOptions, Encoder, Error, Input, LossTerms, Mask, Masking, Method, Reconstruction,
    Result, StepContext,
};
use mim_targets::{PartTokens, overlap};

use super::NAME;
use crate::tokens::redrawn;

/// SemMAE's part learning. Its intermediates are `maps` `[batch, patches, parts]`, `reconstruction`, `loss.pixel` and
/// `loss.diversity`.
pub struct SemMaeParts {
    pub(super) student: ParamStore,
    pub(super) views: ViewPlan,
    pub(super) input: Input,
    pub(super) teacher: Box<dyn Encoder>,
    pub(super) tokens: PartTokens,
    pub(super) decoder: StyleDecoder,
    pub(super) diversity_weight: f64,
    pub(super) note: String,
}

impl SemMaeParts {
    /// The part maps, and the images `[batch, channels, height, width]` decoded from them.
    fn drawn(&self, images: &Tensor, step: &StepContext) -> Result<(Tensor, Tensor)> {
        let (want, quiet) = (EncodeOptions::default(), step.teacher());
        let encoded = self.teacher.encode(images, Masking::None, &want, &quiet)?;
        let cls = encoded.cls()?.ok_or_else(|| {
            Error::unsupported(
                "part tokens of a network without class token",
                "part tokens are computed from the class token",
                "use a ViT with class_token = true",
            )
        })?;
        let (cls, patches) = (cls.detach(), encoded.patches()?.detach());
        let maps = self.tokens.maps(&cls, &patches)?;
        step.trace("maps", || Ok(maps.clone()))?;
        let (batch, _, parts) = maps.dims3()?;
        let on_grid = maps.reshape((batch, encoded.grid.rows, encoded.grid.cols, parts))?;
        let drawn = self.decoder.decode(&on_grid, &cls)?;
        step.trace("reconstruction", || Ok(drawn.clone()))?;
        Ok((maps, drawn))
    }
}

impl Method for SemMaeParts {
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

    /// None: the encoder is frozen.
    fn encoder(&self) -> Option<&dyn Encoder> {
        None
    }

    fn notes(&self) -> Vec<String> {
        vec![self.note.clone()]
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let images = batch.view(0)?.normalized(&self.input.norm)?;
        let (maps, drawn) = self.drawn(&images, step)?;
        let pixel = (drawn - images)?.sqr()?.mean_all()?;
        step.trace("loss.pixel", || Ok(pixel.clone()))?;
        let diversity = overlap(&maps)?;
        step.trace("loss.diversity", || Ok(diversity.clone()))?;
        let mut terms = LossTerms::single("pixel", pixel)?;
        terms.push("diversity", diversity, self.diversity_weight)?;
        step.trace("loss", || terms.total())?;
        Ok(terms)
    }

    fn override_mask(&mut self, _mask: Mask) -> Result<()> {
        Err(Error::unsupported(
            format!("a mask for {NAME}"),
            "it sees whole images",
            "remove the mask",
        ))
    }

    fn reconstruct(&self, batch: &Batch, step: &StepContext) -> Result<Reconstruction> {
        let images = batch.view(0)?.normalized(&self.input.norm)?;
        let (_, drawn) = self.drawn(&images, step)?;
        redrawn(&self.input.norm, &images, &drawn)
    }
}

impl std::fmt::Debug for SemMaeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SemMaeParts")
            .field("input", &self.input)
            .field("diversity_weight", &self.diversity_weight)
            .finish_non_exhaustive()
    }
}
