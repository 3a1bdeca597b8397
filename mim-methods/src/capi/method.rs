//! The training step of CAPI.

use candle_core::{DType, Tensor};
use mim_core::augment::ViewPlan;
use mim_core::decoders::{RopePredictor, RopePredictorConfig};
use mim_core::encoders::{RopeVit, RopeVitConfig};
use mim_core::nn::{Clustered, Coordinates, OnlineClustering, Placed, WeightNormed};
use mim_core::params::{Ema, EmaTiming, ParamStore, Params};
use mim_core::{
    Batch, EncodeOptions, Encoder, Input, LossTerms, Mask, Masking, Method, Purpose, Result,
    StepContext, ops,
};
use mim_masking::{FixedMasker, Guide, MaskRequest, Masker};

/// Encoder, predictor and head, of the student or the teacher.
pub(super) struct Tower {
    pub(super) encoder: RopeVit,
    predictor: RopePredictor,
    head: WeightNormed,
}

impl Tower {
    /// The encoder lies under `params`, the others under `predictor` and `head.last_layer`.
    pub(super) fn new(
        params: &Params,
        encoder: &RopeVitConfig,
        predictor: &RopePredictorConfig,
        clusters: usize,
    ) -> Result<Self> {
        let (width, head) = (predictor.embed_dim, params.pp("head").pp("last_layer"));
        Ok(Self {
            encoder: RopeVit::new(params, encoder)?,
            predictor: RopePredictor::new(&params.pp("predictor"), predictor, &encoder.block())?,
            head: WeightNormed::new(&head, width, clusters)?,
        })
    }
}

/// CAPI: prediction of the clusters of hidden patches, where the clusters are learned at the same time.
///
/// One training step: a momentum teacher sees whole images, and a clustering head assigns its patches to clusters,
/// position by position over the batch. The student sees one block of each image and predicts the clusters of some of
/// the other patches.
pub struct Capi {
    pub(super) stores: [(&'static str, ParamStore); 2],
    pub(super) input: Input,
    pub(super) views: ViewPlan,
    pub(super) masker: Box<dyn Masker>,
    pub(super) student: Tower,
    pub(super) teacher: Tower,
    pub(super) clustering: OnlineClustering,
    pub(super) student_temp: f64,
    pub(super) ema: Ema,
}

impl Capi {
    /// The cluster assignments of the teacher's patches.
    fn clusters(&self, images: &Tensor, step: &StepContext) -> Result<Clustered> {
        let want = EncodeOptions::default();
        let teacher = step.teacher();
        let encoded = self
            .teacher
            .encoder
            .encode(images, Masking::None, &want, &teacher)?;
        let features = encoded.patches()?.transpose(0, 1)?.contiguous()?;
        let clustered = self.clustering.forward(&features, step)?;
        step.trace("teacher_logits", || Ok(clustered.logits.clone()))?;
        step.trace("assignments", || Ok(clustered.assignments.clone()))?;
        step.trace("loss.clustering", || Ok(clustered.loss.clone()))?;
        Ok(clustered)
    }

    fn mask(&self, images: &Tensor, step: &StepContext) -> Result<Mask> {
        let (count, _, height, width) = images.dims4()?;
        let request = MaskRequest {
            images: count,
            grid: self.student.encoder.grid((height, width))?,
            guide: Guide::None,
            step,
        };
        self.masker
            .sample(&request, &mut step.rng(Purpose::Mask, 0))
    }

    /// The student's logits for the hidden patches that the mask lists, `[total, clusters]`.
    fn predictions(&self, images: &Tensor, mask: &Mask, step: &StepContext) -> Result<Tensor> {
        let (tower, device) = (&self.student, images.device());
        let (masking, want) = (Masking::Drop(mask), EncodeOptions::default());
        let encoded = tower.encoder.encode(images, masking, &want, step)?;
        let seen = tower
            .encoder
            .places(mask.grid(), (Some(mask), mask.rows()), device)?;
        let context = Placed {
            tokens: &encoded.tokens,
            positions: &seen,
        };
        let hidden = Coordinates::hidden(mask, device)?;
        let tokens = tower.predictor.predict(&hidden, context, step)?;
        step.trace("student_decoder", || Ok(tokens.clone()))?;
        let logits = tower.head.of_unit_rows(&tokens.flatten(0, 1)?)?;
        step.trace("student_logits", || Ok(logits.clone()))?;
        Ok(logits)
    }
}

impl Method for Capi {
    fn name(&self) -> &str {
        "capi"
    }

    fn views(&self, _epoch: usize) -> ViewPlan {
        self.views.clone()
    }

    fn input(&self) -> &Input {
        &self.input
    }

    fn stores(&self) -> Vec<(&str, &ParamStore)> {
        let stores = self.stores.iter();
        stores.map(|(name, store)| (*name, store)).collect()
    }

    /// The teacher's encoder, as the authors evaluate it.
    fn encoder(&self) -> Option<&dyn Encoder> {
        Some(&self.teacher.encoder)
    }

    fn encoders(&self) -> Vec<(&str, &dyn Encoder)> {
        vec![
            ("teacher", &self.teacher.encoder),
            ("student", &self.student.encoder),
        ]
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let images = batch.view(0)?.normalized(&self.input.norm)?;
        let mask = self.mask(&images, step)?;
        step.trace_mask(&mask)?;
        let clustered = self.clusters(&images, step)?;
        let rows = clustered.assignments.transpose(0, 1)?.contiguous()?;
        let ids = mask.flat(true, images.dim(0)?, images.device())?;
        let targets = rows.flatten(0, 1)?.index_select(&ids, 0)?;
        step.trace("targets", || Ok(targets.clone()))?;
        step.trace("target_entropy", || {
            // Zeros contribute nothing to the sum.
            let logs = targets.maximum(f64::from(f32::MIN_POSITIVE))?.log()?;
            Ok((&targets * logs)?.sum(1)?.mean_all()?.neg()?)
        })?;
        let logits = self.predictions(&images, &mask, step)?;
        let losses = ops::soft_cross_entropy(&logits, &targets, self.student_temp)?;
        let loss = losses.mean_all()?.to_dtype(DType::F32)?;
        step.trace("loss.capi", || Ok(loss.clone()))?;
        let mut terms = LossTerms::single("capi", loss)?;
        terms.push("clustering", clustered.loss, 1.)?;
        step.trace("loss", || terms.total())?;
        Ok(terms)
    }

    fn after_step(&self, step: &StepContext) -> Result<()> {
        self.ema.update(EmaTiming::AfterStep, step)
    }

    fn override_mask(&mut self, mask: Mask) -> Result<()> {
        self.masker = Box::new(FixedMasker::new(mask));
        Ok(())
    }
}

impl std::fmt::Debug for Capi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capi")
            .field("input", &self.input)
            .field("clustering", &self.clustering)
            .finish_non_exhaustive()
    }
}
