//! Features of a teacher as targets.

use candle_core::{D, Tensor};
use mim_core::nn::ProjectionHead;
use mim_core::{
    EncodeOptions, Encoded, Encoder, Error, Masking, Norm, PatchGrid, Result, StepContext, Target,
    ops,
};
use serde::{Deserialize, Serialize};

use crate::target_generator::view_size;
use crate::{TargetGenerator, TargetRequest};

const NAME: &str = "feature target";

/// Settings of [`FeatureTarget`]; `Default` is the teacher's output on the student's view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureTargetConfig {
    /// Index of the view that the teacher sees. Default 0.
    pub view: usize,
    /// Normalisation of the teacher's images. Default ImageNet's.
    pub norm: Norm,
    /// Whether the teacher's final norm is applied. Default true.
    pub final_norm: bool,
    /// Epsilon of a layer norm without weights on each token; `None` (the default) for no such norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_norm_eps: Option<f64>,
    /// Whether that norm divides by the unbiased deviation (SdAE, dBOT). Default false.
    pub layer_norm_unbiased: bool,
    /// Blocks, from 0, whose outputs before the final norm are averaged (data2vec); none (the default) for the output
    /// of the teacher.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<usize>,
    /// Epsilon of a layer norm without weights on each of these block outputs, before the average; `None` (the
    /// default) for no such norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_norm_eps: Option<f64>,
    /// Whether the teacher's class token is a target, in addition to the patches (MILAN). Default false.
    pub class_token: bool,
    /// Whether the mean of the patches is also a target, for the whole image (MimCo). Default false.
    pub mean_token: bool,
    /// Whether to keep the attention of the teacher's class token in its last block, averaged over
    /// heads, to guide a masker (MILAN). Default false.
    pub attention: bool,
    /// Whether the target is one row per image, the mean over all patch tokens (CMAE). Default false.
    pub pool: bool,
}

impl Default for FeatureTargetConfig {
    fn default() -> Self {
        Self {
            view: 0,
            norm: Norm::imagenet(),
            final_norm: true,
            layer_norm_eps: None,
            layer_norm_unbiased: false,
            layers: Vec::new(),
            layers_norm_eps: None,
            class_token: false,
            mean_token: false,
            attention: false,
            pool: false,
        }
    }
}

impl FeatureTargetConfig {
    fn check(&self) -> Result<()> {
        let epsilons = [
            ("layer_norm_eps", self.layer_norm_eps),
            ("layers_norm_eps", self.layers_norm_eps),
        ];
        for (field, eps) in epsilons {
            if let Some(eps) = eps.filter(|eps| eps.is_nan() || *eps <= 0.) {
                let fix = "use 1e-5, or remove it for no norm";
                return Err(Error::config(NAME, field, eps, "it must be positive", fix));
            }
        }
        let (field, why, fix) = if self.layers.is_empty() && self.layers_norm_eps.is_some() {
            let why = "it normalises outputs of blocks, but layers is empty";
            (
                "layers_norm_eps",
                why,
                "set layers, or remove layers_norm_eps",
            )
        } else if self.layer_norm_unbiased && self.layer_norm_eps.is_none() {
            let why = "it belongs to the norm of layer_norm_eps, which is not set";
            (
                "layer_norm_unbiased",
                why,
                "set layer_norm_eps, or remove layer_norm_unbiased",
            )
        } else if !self.layers.is_empty() && self.class_token {
            let why = "an average of blocks has only patch targets";
            ("class_token", why, "remove layers or class_token")
        } else if self.class_token && self.mean_token {
            let why = "an image has one row in addition to its patches, and class_token is set";
            ("mean_token", why, "remove class_token or mean_token")
        } else {
            return Ok(());
        };
        Err(Error::config(NAME, field, "set", why, fix))
    }
}

/// Features of a teacher on whole images: a momentum teacher (BootMAE, SIM, CMAE) or a frozen network.
///
/// The teacher is any [`Encoder`]; built on [`mim_core::params::ParamStore::teacher`], it follows its
/// student. The teacher's intermediates are traced as `teacher.*`.
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
    /// [`Error::InvalidConfig`] if an epsilon is not positive, or settings conflict.
    pub fn new(teacher: impl Encoder + 'static, config: FeatureTargetConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            teacher: Box::new(teacher),
            head: None,
            config,
        })
    }

    /// Applies a head of the teacher's store to the target, tokens or pooled rows.
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

    /// A teacher with larger or smaller patches needs another view.
    fn check(&self, grid: PatchGrid, views: &[(usize, usize)]) -> Result<()> {
        let (height, width) = view_size(views, self.config.view)?;
        let own = self.teacher.grid((height, width))?;
        if own == grid || self.config.pool {
            return Ok(());
        }
        let (rows, cols) = (height / own.rows.max(1), width / own.cols.max(1));
        Err(Error::shape(
            "features of the teacher",
            format!("one per patch of the grid {grid}"),
            format!("{own}"),
            format!(
                "give the teacher a view of {}x{} pixels (target.view, views), or another patch size",
                grid.rows * rows,
                grid.cols * cols
            ),
        ))
    }

    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let image = rq
            .batch
            .view(self.config.view)?
            .normalized(&self.config.norm)?;
        let want = EncodeOptions {
            skip_norm: !self.config.final_norm,
            cls_attention: self.config.attention,
            layers: self.config.layers.clone(),
        };
        let step = rq.step.teacher();
        let encoded = self.teacher.encode(&image, Masking::None, &want, &step)?;
        let mut rows = self.patches(&encoded)?.detach();
        step.trace("patches", || Ok(rows.clone()))?;
        if self.config.pool {
            rows = self.finish(self.norm(&rows)?.mean(1)?, &step)?;
            return Ok(Target::image(rows));
        }
        let mut target = Target::patches(self.finish(self.norm(&rows)?, &step)?);
        if self.config.class_token {
            let class = encoded.cls()?.ok_or_else(no_class_token)?.detach();
            let class = self.finish(self.norm(&class)?, &step)?;
            step.trace("class", || Ok(class.clone()))?;
            target.image = Some(class);
        }
        if self.config.mean_token {
            target.image = Some(target.patches.mean(1)?);
        }
        if let Some(attention) = encoded.cls_attention {
            target.attention = Some(attention.detach().mean(1)?);
        }
        Ok(target)
    }
}

impl FeatureTarget {
    /// The patches of the output, or the mean of the patches after some blocks.
    fn patches(&self, encoded: &Encoded) -> Result<Tensor> {
        let Some((first, others)) = self.config.layers.split_first() else {
            return encoded.patches();
        };
        let layer = |index: usize| -> Result<Tensor> {
            let rows = encoded.layer_patches(index).map_err(|_| no_block(index))?;
            Ok(match self.config.layers_norm_eps {
                Some(eps) => ops::normalize(&rows, eps)?,
                None => rows,
            })
        };
        let mut sum = layer(*first)?;
        for &index in others {
            sum = (sum + layer(index)?)?;
        }
        Ok((sum / self.config.layers.len() as f64)?)
    }

    fn norm(&self, rows: &Tensor) -> Result<Tensor> {
        match self.config.layer_norm_eps {
            Some(eps) if self.config.layer_norm_unbiased => standardize(rows, eps),
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

/// `(x - mean) / sqrt(variance + eps)` over the last axis of `[..., dim]`, with the unbiased variance: for targets of SdAE
/// and dBOT.
///
/// # Errors
///
/// If `rows` is a scalar.
pub fn standardize(rows: &Tensor, eps: f64) -> Result<Tensor> {
    // The unbiased variance is the population variance times n / (n - 1).
    let width = rows.dim(D::Minus1)?.max(2) as f64;
    let share = (width - 1.) / width;
    Ok((ops::normalize(rows, eps * share)? * share.sqrt())?)
}

fn no_block(index: usize) -> Error {
    Error::unsupported(
        format!("features of block {index}"),
        "the teacher does not have this block; blocks count from 0",
        "use other blocks in layers",
    )
}

fn no_class_token() -> Error {
    Error::unsupported(
        "a class token as target",
        "the teacher has no class token",
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
    use mim_core::params::{Ema, EmaStart, EmaTiming, ParamStore};
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
    fn features_come_from_the_teacher_without_gradient() {
        let (student, teacher) = (ParamStore::cpu(0), ParamStore::teacher(&Device::Cpu));
        let own = Vit::new(&student.root(), &tiny()).unwrap();
        let copy = Vit::new(&teacher.root(), &tiny()).unwrap();
        Ema::new(
            &student,
            &teacher,
            Schedule::constant(0.9),
            EmaTiming::AfterStep,
            EmaStart::Copy,
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
            .encode(&pixels, Masking::None, &EncodeOptions::default(), &step)
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
    fn block_outputs_are_normalised_and_averaged() {
        let vit = VitConfig { depth: 3, ..tiny() };
        let pixels = Tensor::rand(0f32, 1f32, (2, 3, 8, 8), &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels.clone(), vec![]).unwrap());
        let step = StepContext::new(0);
        let teacher = || Vit::new(&ParamStore::cpu(0).root(), &vit).unwrap();
        let generate = |layers: Vec<usize>| {
            let config = FeatureTargetConfig {
                layers,
                layers_norm_eps: Some(1e-5),
                layer_norm_eps: Some(1e-5),
                ..FeatureTargetConfig::default()
            };
            let target = FeatureTarget::new(teacher(), config)?;
            target.generate(&TargetRequest {
                batch: &batch,
                grid: PatchGrid::new(2, 2),
                mask: None,
                student: None,
                step: &step,
            })
        };
        let want = EncodeOptions {
            layers: vec![1, 2],
            ..EncodeOptions::default()
        };
        let encoded = teacher()
            .encode(&pixels, Masking::None, &want, &step)
            .unwrap();
        let rows = |xs: &Tensor| -> Vec<Vec<f32>> { xs.flatten(0, 1).unwrap().to_vec2().unwrap() };
        let normed = |xs: &Tensor| ops::normalize(xs, 1e-5).unwrap();
        let layer = |index| rows(&normed(&encoded.layer_patches(index).unwrap()));
        let made = rows(&generate(vec![1, 2]).unwrap().patches);
        for ((made, a), b) in made.iter().zip(layer(1)).zip(layer(2)) {
            let mean = made.iter().sum::<f32>() / 8.;
            let variance = made.iter().map(|v| v * v).sum::<f32>() / 8.;
            assert!(mean.abs() < 1e-5 && (variance - 1.).abs() < 1e-3);
            // The average, before the second norm.
            let sums: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            let length = |xs: &[f32]| xs.iter().map(|v| v * v).sum::<f32>().sqrt();
            let dot: f32 = made.iter().zip(&sums).map(|(a, b)| a * b).sum();
            assert!(dot / (length(made) * length(&sums)) > 1. - 1e-5);
        }
        // For one block, the second norm changes nothing.
        for (made, own) in rows(&generate(vec![2]).unwrap().patches)
            .iter()
            .zip(layer(2))
        {
            let apart = made.iter().zip(&own).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0., f32::max) < 1e-4);
        }
        let error = generate(vec![3]).unwrap_err().to_string();
        assert!(error.contains("block 3"), "{error}");
        assert!(generate(vec![]).is_err());
    }

    #[test]
    fn the_unbiased_deviation_divides_by_one_less() {
        let rows = Tensor::new(&[[1f32, 3., 5.]], &Device::Cpu).unwrap();
        // Mean 3, unbiased variance 4.
        let found = standardize(&rows, 5.).unwrap().to_vec2::<f32>().unwrap();
        for (found, wanted) in found[0].iter().zip([-2. / 3., 0., 2. / 3.]) {
            assert!((found - wanted).abs() < 1e-6, "{found} against {wanted}");
        }
    }

    #[test]
    fn a_grid_mismatch_names_the_matching_view() {
        let vit = VitConfig {
            pos_embed: mim_core::nn::PosEmbedKind::Sincos,
            ..tiny()
        };
        let teacher = Vit::new(&ParamStore::cpu(0).root(), &vit).unwrap();
        let target = FeatureTarget::new(teacher, FeatureTargetConfig::default()).unwrap();
        assert!(target.check(PatchGrid::new(2, 3), &[(8, 12)]).is_ok());
        let error = target.check(PatchGrid::new(4, 4), &[(8, 8)]).unwrap_err();
        assert!(error.to_string().contains("16x16 pixels"), "{error}");
        assert!(target.check(PatchGrid::new(4, 4), &[]).is_err());
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
                .encode(&pixels, Masking::None, &EncodeOptions::default(), &step)
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
