//! Features of a teacher as targets.

use candle_core::Tensor;
use mim_core::nn::ProjectionHead;
use mim_core::{Encoder, Error, Masking, Norm, Result, StepContext, Target, Want, ops};
use serde::{Deserialize, Serialize};

use crate::{TargetGenerator, TargetRequest};

/// Settings of [`FeatureTarget`]; `Default` is the teacher's plain output on the student's own view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureTargetConfig {
    /// Which view of the batch the teacher sees. Default 0.
    pub view: usize,
    /// Normalisation of the teacher's images. Default ImageNet's.
    pub norm: Norm,
    /// Whether the teacher's final norm is applied. Default true.
    pub final_norm: bool,
    /// Epsilon of a layer norm without weights on each token; none (the default) for no such norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_norm_eps: Option<f64>,
    /// Whether the teacher's class token is a target too, beside the patches (MILAN). Default false.
    pub class_token: bool,
    /// Whether the attention of the teacher's class token in its last block, averaged over the
    /// heads, is kept to guide a masker (MILAN). Default false.
    pub attention: bool,
    /// Whether the target is one row an image, the mean over all patch tokens (CMAE). Default false.
    pub pool: bool,
}

impl Default for FeatureTargetConfig {
    fn default() -> Self {
        Self {
            view: 0,
            norm: Norm::imagenet(),
            final_norm: true,
            layer_norm_eps: None,
            class_token: false,
            attention: false,
            pool: false,
        }
    }
}

/// Features of a teacher on whole images: a momentum teacher (BootMAE, SIM, CMAE) or a frozen network.
///
/// The teacher is any [`Encoder`]; built on [`mim_core::params::ParamStore::teacher`] it follows its
/// student. The teacher's own intermediates are traced as `teacher.*`.
pub struct FeatureTarget {
    teacher: Box<dyn Encoder>,
    head: Option<ProjectionHead>,
    config: FeatureTargetConfig,
}

impl FeatureTarget {
    /// Features of `teacher`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if an epsilon is not positive.
    pub fn new(teacher: impl Encoder + 'static, config: FeatureTargetConfig) -> Result<Self> {
        if let Some(eps) = config.layer_norm_eps.filter(|eps| *eps <= 0.) {
            return Err(Error::config(
                "feature target",
                "layer_norm_eps",
                eps,
                "it must be positive",
                "use 1e-5, or leave it out for no norm",
            ));
        }
        Ok(Self {
            teacher: Box::new(teacher),
            head: None,
            config,
        })
    }

    /// Passes what is compared, tokens or pooled rows, through a head of the teacher's store.
    #[must_use]
    pub fn with_head(mut self, head: ProjectionHead) -> Self {
        self.head = Some(head);
        self
    }
}

impl TargetGenerator for FeatureTarget {
    fn has_attention(&self) -> bool {
        self.config.attention
    }

    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let image = rq
            .batch
            .view(self.config.view)?
            .normalized(&self.config.norm)?;
        let want = Want {
            skip_norm: !self.config.final_norm,
            cls_attention: self.config.attention,
            ..Want::default()
        };
        let step = rq.step.teacher();
        let encoded = self.teacher.encode(&image, Masking::None, &want, &step)?;
        let mut rows = encoded.patches()?.detach();
        step.trace("patches", || Ok(rows.clone()))?;
        if self.config.pool {
            rows = self.finish(self.norm(&rows)?.mean(1)?, &step)?;
            return Ok(Target::image(rows));
        }
        let mut target = Target::patches(self.finish(self.norm(&rows)?, &step)?);
        if self.config.class_token {
            let class = encoded.cls()?.ok_or_else(no_class_token)?.detach();
            target.image = Some(self.finish(self.norm(&class)?, &step)?);
        }
        if let Some(attention) = encoded.cls_attention {
            target.attention = Some(attention.detach().mean(1)?);
        }
        Ok(target)
    }
}

impl FeatureTarget {
    fn norm(&self, rows: &Tensor) -> Result<Tensor> {
        match self.config.layer_norm_eps {
            Some(eps) => Ok(ops::normalize(rows, eps)?),
            None => Ok(rows.clone()),
        }
    }

    fn finish(&self, rows: Tensor, step: &StepContext) -> Result<Tensor> {
        match &self.head {
            Some(head) => Ok(head.forward(&rows, step)?.detach()),
            None => Ok(rows),
        }
    }
}

fn no_class_token() -> Error {
    Error::unsupported(
        "a class token as target",
        "the teacher has none",
        "use class_token = false, or a teacher with a class token",
    )
}

impl std::fmt::Debug for FeatureTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeatureTarget")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use mim_core::encoders::{Vit, VitConfig};
    use mim_core::nn::ProjectionHeadConfig;
    use mim_core::params::{Ema, ParamStore, Start, When};
    use mim_core::schedule::Schedule;
    use mim_core::{Batch, PatchGrid, StepContext, View};

    fn tiny() -> VitConfig {
        VitConfig {
            image_size: 8.into(),
            patch_size: 4,
            embed_dim: 8,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        }
    }

    #[test]
    fn features_come_from_the_teachers_weights_and_carry_no_gradient() {
        let (student, teacher) = (ParamStore::cpu(0), ParamStore::teacher(&Device::Cpu));
        let own = Vit::new(&student.root(), &tiny()).unwrap();
        let copy = Vit::new(&teacher.root(), &tiny()).unwrap();
        Ema::new(
            &student,
            &teacher,
            Schedule::constant(0.9),
            When::AfterStep,
            Start::Copy,
        )
        .unwrap();
        let pixels = Tensor::rand(0f32, 1f32, (2, 3, 8, 8), &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels.clone(), vec![]).unwrap());
        let step = StepContext::new(0);
        let target = FeatureTarget::new(copy, FeatureTargetConfig::default()).unwrap();
        let request = TargetRequest {
            batch: &batch,
            grid: PatchGrid::new(2, 2),
            mask: None,
            student: None,
            step: &step,
        };
        let made = target.generate(&request).unwrap();
        let encoded = own
            .encode(&pixels, Masking::None, &Want::default(), &step)
            .unwrap();
        let values = |xs: &Tensor| {
            xs.to_dtype(DType::F32)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        assert_eq!(values(&made.patches), values(&encoded.patches().unwrap()));
        assert!(!made.patches.track_op());
        let second = FeatureTargetConfig {
            view: 1,
            ..FeatureTargetConfig::default()
        };
        let teacher = Vit::new(&teacher.root().shared(), &tiny()).unwrap();
        let missing = FeatureTarget::new(teacher, second).unwrap();
        assert!(missing.generate(&request).is_err());
    }

    #[test]
    fn pooled_rows_are_means_over_patches_with_or_without_class_token() {
        let pixels = Tensor::rand(0f32, 1f32, (3, 3, 8, 8), &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels.clone(), vec![]).unwrap());
        let step = StepContext::new(0);
        for class_token in [true, false] {
            let config = VitConfig {
                class_token,
                ..tiny()
            };
            let store = ParamStore::cpu(0);
            let teacher = || Vit::new(&store.root().shared(), &config).unwrap();
            let pooled = FeatureTargetConfig {
                pool: true,
                ..FeatureTargetConfig::default()
            };
            let head = ProjectionHeadConfig {
                hidden_dim: 5,
                out_dim: 3,
                ..ProjectionHeadConfig::default()
            };
            let head = head.build(&store.root().pp("projector"), 8).unwrap();
            let generate = |target: FeatureTarget| {
                let request = TargetRequest {
                    batch: &batch,
                    grid: PatchGrid::new(2, 2),
                    mask: None,
                    student: None,
                    step: &step,
                };
                target.generate(&request).unwrap().image.unwrap()
            };
            let tokens = teacher()
                .encode(&pixels, Masking::None, &Want::default(), &step)
                .unwrap()
                .patches()
                .unwrap();
            assert_eq!(tokens.dims(), [3, 4, 8]);
            let mean = tokens.mean(1).unwrap();
            let plain = generate(FeatureTarget::new(teacher(), pooled.clone()).unwrap());
            assert_eq!(
                plain.to_vec2::<f32>().unwrap(),
                mean.to_vec2::<f32>().unwrap()
            );
            let target = FeatureTarget::new(teacher(), pooled).unwrap();
            let projected = generate(target.with_head(head.clone()));
            let wanted = head.forward(&mean, &step).unwrap();
            assert_eq!(
                projected.to_vec2::<f32>().unwrap(),
                wanted.to_vec2::<f32>().unwrap()
            );
            assert!(!projected.track_op());
        }
    }
}
