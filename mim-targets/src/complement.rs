//! Features of hidden patches, encoded without the visible ones.

use candle_core::Tensor;
use mim_core::nn::{LayerNorm, Linear};
use mim_core::objectives::{ObjectiveSettings, RegressionConfig};
use mim_core::params::{Ema, EmaStart, EmaTiming, ParamStore};
use mim_core::parts::Part;
use mim_core::schedule::Schedule;
use mim_core::{EncodeOptions, Encoder, Error, Masking, Norm, Result, Rows, StepContext, Target};
use serde::{Deserialize, Serialize};

use crate::{
    BuiltTarget, TargetContext, TargetGenerator, TargetRequest, TargetSettings, TargetStage,
};

/// Settings of a copy of the encoder that sees only the hidden patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ComplementConfig {
    /// Share of the copy kept by each step. Default 0: the copy is the encoder of the previous step.
    pub momentum: f64,
}

impl Default for ComplementConfig {
    fn default() -> Self {
        Self { momentum: 0. }
    }
}

impl Part for ComplementConfig {
    const ABOUT: &'static str =
        "features of hidden patches, from a copy of the encoder that sees only these";
    const PAPER: &'static str = "CAE: Chen et al., IJCV 2023, arXiv 2202.03026";
}

impl TargetSettings for ComplementConfig {
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget> {
        if cx.attention {
            return Err(Error::unsupported(
                "a masker guided by features of hidden patches",
                "they are computed after the mask",
                "use the target momentum, or a masker without a guide",
            ));
        }
        let store = ParamStore::teacher(cx.student.device());
        let copy = cx.encoder.build(&store.root())?;
        let momentum = Schedule::constant(self.momentum);
        momentum.validate()?;
        let ema = Ema::new(
            cx.student,
            &store,
            momentum,
            EmaTiming::AfterStep,
            EmaStart::Copy,
        )?;
        let target = ComplementTarget::new(copy, cx.norm.clone());
        Ok(BuiltTarget {
            teacher: Some((store, ema)),
            ..BuiltTarget::new(target, cx.encoder.dim())
        })
    }

    fn objective(&self) -> Box<dyn ObjectiveSettings> {
        Box::new(RegressionConfig::default())
    }
}

/// Tokens of the hidden patches from a teacher that sees only these (CAE's alignment target).
///
/// The mask must hide the same number of patches in every image. The teacher's intermediates are traced as
/// `teacher.*`.
pub struct ComplementTarget {
    teacher: Box<dyn Encoder>,
    norm: Norm,
    embed: Option<(Linear, LayerNorm)>,
    drop_path: bool,
}

impl ComplementTarget {
    /// Uses `teacher` on the images of view 0, normalised with `norm`.
    pub fn new(teacher: impl Encoder + 'static, norm: Norm) -> Self {
        Self {
            teacher: Box::new(teacher),
            norm,
            embed: None,
            drop_path: false,
        }
    }

    /// Applies a linear layer and a norm to the tokens; they may belong to any network, since no gradient flows there.
    #[must_use]
    pub fn embed(mut self, embed: Linear, norm: LayerNorm) -> Self {
        self.embed = Some((embed, norm));
        self
    }

    /// Whether stochastic depth also acts in the teacher, with separate draws. Default false.
    #[must_use]
    pub fn drop_path(mut self, drop_path: bool) -> Self {
        self.drop_path = drop_path;
        self
    }

    fn step(&self, step: &StepContext) -> StepContext {
        match self.drop_path {
            true => StepContext {
                pass: step.pass + 1,
                ..step.scoped("teacher")
            },
            false => step.teacher(),
        }
    }
}

impl TargetGenerator for ComplementTarget {
    fn stage(&self) -> TargetStage {
        TargetStage::Mask
    }

    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let mask = rq.mask.ok_or_else(|| {
            let fix = "request it after the mask is drawn";
            Error::unsupported("features of hidden patches", "there is no mask", fix)
        })?;
        let image = rq.batch.view(0)?.normalized(&self.norm)?;
        let alone = mask.complement();
        let (step, want) = (self.step(rq.step), EncodeOptions::default());
        let encoded = self
            .teacher
            .encode(&image, Masking::Drop(&alone), &want, &step)?;
        let mut rows: Tensor = encoded.patches()?.detach();
        if let Some((embed, norm)) = &self.embed {
            rows = norm.forward(&embed.forward(&rows)?)?.detach();
        }
        Ok(Target {
            rows: Rows::Masked,
            ..Target::patches(rows)
        })
    }
}

impl std::fmt::Debug for ComplementTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ComplementTarget")
            .field("embed", &self.embed)
            .field("drop_path", &self.drop_path)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::encoders::{Vit, VitConfig};
    use mim_core::{Batch, Mask, PatchGrid, View};

    #[test]
    fn the_teacher_sees_only_hidden_patches_in_the_masks_order() {
        let vit = VitConfig {
            image_size: 8.into(),
            patch_size: 4,
            embed_dim: 8,
            depth: 2,
            num_heads: 2,
            drop_path_rate: 0.9,
            ..VitConfig::default()
        };
        let store = ParamStore::cpu(0);
        let teacher = Vit::new(&store.root(), &vit).unwrap();
        let pixels = Tensor::rand(0f32, 1f32, (6, 3, 8, 8), &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels.clone(), vec![]).unwrap());
        let order = [3, 0, 2, 1].repeat(6);
        let mask = Mask::new(PatchGrid::new(2, 2), order, vec![2; 6]).unwrap();
        let hidden = Mask::new(mask.grid(), [2, 1, 3, 0].repeat(6), vec![2; 6]).unwrap();
        let step = StepContext::new(0);
        let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let generate = |target: ComplementTarget, mask: Option<&Mask>| {
            let request = TargetRequest {
                batch: &batch,
                grid: PatchGrid::new(2, 2),
                mask,
                student: None,
                step: &step,
            };
            target.generate(&request)
        };
        let target = || ComplementTarget::new(teacher.clone(), Norm::imagenet());
        let made = generate(target(), Some(&mask)).unwrap();
        let want = EncodeOptions::default();
        let alone = teacher.encode(&pixels, Masking::Drop(&hidden), &want, &step.teacher());
        let alone = alone.unwrap().patches().unwrap();
        assert_eq!(
            (made.rows, made.patches.dims()),
            (Rows::Masked, &[6, 2, 8][..])
        );
        assert_eq!(values(&made.patches), values(&alone));
        assert!(!made.patches.track_op());
        let dropped = generate(target().drop_path(true), Some(&mask)).unwrap();
        assert_ne!(values(&dropped.patches), values(&alone));
        assert!(generate(target(), None).is_err());
    }
}
