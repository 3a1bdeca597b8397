//! The training step of iBOT and AttMask.

use candle_core::{DType, Tensor};
use mim_core::augment::ViewPlan;
use mim_core::objectives::{DistillationLogits, SelfDistillation};
use mim_core::params::{Ema, EmaTiming, ParamStore};
use mim_core::{
    Batch, EncodeOptions, Encoded, Encoder, Error, Input, LossTerms, Mask, Masking, Method,
    Purpose, Result, StepContext, ops,
};
use mim_masking::{FixedMasker, Guide, GuideKind, MaskRequest, Masker};

use super::tower::{Tower, image_rows, patch_rows};

/// Self-distillation with masks: iBOT, or AttMask if attention guides the masks.
///
/// One training step: the teacher sees the global crops; the student sees the same crops with hidden patches, and the
/// local crops. Class tokens must agree across crops, hidden patches with the teacher's patch tokens at their
/// positions. Crops of one size form one batch, crop by crop.
pub struct Ibot {
    pub(super) name: &'static str,
    pub(super) stores: [(&'static str, ParamStore); 2],
    pub(super) input: Input,
    pub(super) views: ViewPlan,
    /// Number of views that the teacher sees as well; they come first.
    pub(super) globals: usize,
    /// Draws the masks of global crops.
    pub masker: Box<dyn Masker>,
    pub(super) student: Tower,
    pub(super) teacher: Tower,
    pub(super) objective: SelfDistillation,
    pub(super) ema: Ema,
}

/// The teacher's output for the global crops, before its last layer.
struct Taught {
    cls: Tensor,
    patches: Tensor,
    encoded: Encoded,
}

impl Ibot {
    /// The normalised images of several views of one size, stacked.
    fn stacked(&self, batch: &Batch, views: std::ops::Range<usize>) -> Result<Tensor> {
        let images = views
            .map(|index| {
                let view = batch.view(index)?;
                Ok((view.normalized(&self.input.norm)?, view.size()))
            })
            .collect::<Result<Vec<_>>>()?;
        if let [(_, first), .., (_, last)] = images.as_slice()
            && first != last
        {
            return Err(Error::shape(
                "global crops",
                format!("{}x{} pixels, like the first one", first.0, first.1),
                format!("{}x{}", last.0, last.1),
                "give all global crops the encoder's image size",
            ));
        }
        let images: Vec<_> = images.into_iter().map(|(image, _)| image).collect();
        Ok(Tensor::cat(&images, 0)?)
    }

    /// Ranges of consecutive local crops of the same size.
    fn local_runs(&self, batch: &Batch) -> Vec<std::ops::Range<usize>> {
        let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
        for index in self.globals..batch.views.len() {
            let size = |at: usize| batch.views[at].size();
            match runs.last_mut() {
                Some(run) if size(run.start) == size(index) => run.end = index + 1,
                _ => runs.push(index..index + 1),
            }
        }
        runs
    }

    fn teach(&self, images: &Tensor, step: &StepContext) -> Result<Taught> {
        let want = EncodeOptions {
            cls_attention: self.masker.guide() == GuideKind::Scores,
            ..EncodeOptions::default()
        };
        let tower = &self.teacher;
        let step = step.teacher();
        let encoded = tower.encoder.encode(images, Masking::None, &want, &step)?;
        Ok(Taught {
            cls: tower.head.bottleneck(&image_rows(&encoded)?)?,
            patches: tower.head.bottleneck(&patch_rows(&encoded)?)?,
            encoded,
        })
    }

    fn mask(&self, taught: &Taught, step: &StepContext) -> Result<Mask> {
        let encoded = &taught.encoded;
        let mut scores = Vec::new();
        if let Some(attention) = &encoded.cls_attention {
            let attention = attention.to_dtype(DType::F32)?.mean(1)?;
            step.trace("cls_attention", || Ok(attention.clone()))?;
            scores = attention.flatten_all()?.to_vec1::<f32>()?;
        }
        let request = MaskRequest {
            images: encoded.tokens.dim(0)?,
            grid: encoded.grid,
            guide: match self.masker.guide() {
                GuideKind::Scores => Guide::Scores(&scores),
                _ => Guide::None,
            },
            step,
        };
        let mask = self
            .masker
            .sample(&request, &mut step.rng(Purpose::Mask, 0))?;
        step.trace_mask(&mask)?;
        step.trace("mask", || mask.bits(encoded.tokens.device()))?;
        Ok(mask)
    }

    /// The teacher's logits for class tokens and for hidden patches, and their mean over all patches.
    fn targets(
        &self,
        taught: &Taught,
        hidden: &Tensor,
        step: &StepContext,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let head = &self.teacher.head;
        step.trace("teacher_patch", || {
            Ok(head.logits(&taught.cls, &taught.patches)?.1)
        })?;
        // The last layer is linear, so the mean of the logits is the logits of the mean input.
        let mean = taught.patches.mean_keepdim(0)?;
        let rows = Tensor::cat(&[&mean, &taught.patches.index_select(hidden, 0)?], 0)?;
        let (cls, rows) = head.logits(&taught.cls, &rows)?;
        step.trace("teacher_cls", || Ok(cls.clone()))?;
        let hidden = rows.narrow(0, 1, rows.dim(0)? - 1)?;
        Ok((cls, hidden, rows.narrow(0, 0, 1)?))
    }

    /// The student's logits for the class tokens of all crops and for hidden patches.
    fn predictions(
        &self,
        (images, mask): (&Tensor, &Mask),
        batch: &Batch,
        hidden: &Tensor,
        step: &StepContext,
    ) -> Result<(Tensor, Tensor)> {
        let (tower, want) = (&self.student, EncodeOptions::default());
        let masking = Masking::Replace(mask);
        let encoded = tower.encoder.encode(images, masking, &want, step)?;
        let mut cls = vec![image_rows(&encoded)?];
        for (pass, run) in (1u8..).zip(self.local_runs(batch)) {
            // Each pass has its own stochastic depth.
            let step = StepContext {
                pass,
                ..step.scoped("local")
            };
            let images = self.stacked(batch, run)?;
            let local = tower.encoder.encode(&images, Masking::None, &want, &step)?;
            cls.push(image_rows(&local)?);
        }
        let cls = tower.head.bottleneck(&Tensor::cat(&cls, 0)?)?;
        let patches = patch_rows(&encoded)?;
        let rows = ops::gather_rows(&patches, hidden)?;
        let (cls_logits, rows) = tower.head.logits(&cls, &tower.head.bottleneck(&rows)?)?;
        step.trace("student_patch", || {
            let all = tower.head.bottleneck(&patches)?;
            Ok(tower.head.logits(&cls, &all)?.1)
        })?;
        let (total, global) = (cls_logits.dim(0)?, images.dim(0)?);
        step.trace("student_cls", || Ok(cls_logits.narrow(0, 0, global)?))?;
        if total > global {
            step.trace("student_local_cls", || {
                Ok(cls_logits.narrow(0, global, total - global)?)
            })?;
        }
        Ok((cls_logits, rows))
    }
}

impl Method for Ibot {
    fn name(&self) -> &str {
        self.name
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
        Some(self.teacher.encoder.as_ref())
    }

    fn encoders(&self) -> Vec<(&str, &dyn Encoder)> {
        vec![
            ("teacher", self.teacher.encoder.as_ref()),
            ("student", self.student.encoder.as_ref()),
        ]
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let images = self.stacked(batch, 0..self.globals)?;
        let taught = self.teach(&images, step)?;
        let mask = self.mask(&taught, step)?;
        let hidden = match mask.hidden_total() {
            // Any patch; its loss has weight 0.
            0 => Tensor::zeros(1, DType::U32, images.device())?,
            _ => mask.flat(true, images.dim(0)?, images.device())?,
        };
        let (teacher_cls, teacher_patch, patch_mean) = self.targets(&taught, &hidden, step)?;
        let (student_cls, student_patch) =
            self.predictions((&images, &mask), batch, &hidden, step)?;
        let logits = DistillationLogits {
            globals: self.globals,
            teacher_cls,
            student_cls,
            teacher_patch,
            student_patch,
            patch_mean,
        };
        let terms = self.objective.loss(&logits, &mask, step)?;
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

impl std::fmt::Debug for Ibot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ibot")
            .field("name", &self.name)
            .field("input", &self.input)
            .field("globals", &self.globals)
            .field("objective", &self.objective)
            .finish_non_exhaustive()
    }
}
