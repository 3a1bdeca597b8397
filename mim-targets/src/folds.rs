//! Features of hidden patches, one fold at a time.

use mim_core::objectives::{CosineConfig, ObjectiveSettings};
use mim_core::params::{Ema, EmaStart, EmaTiming, ParamStore};
use mim_core::parts::Part;
use mim_core::schedule::Schedule;
use mim_core::{EncodeOptions, Encoder, Error, Mask, Masking, Norm, Result, Rows, Target};
use serde::{Deserialize, Serialize};

use crate::features::standardize;
use crate::{
    BuiltTarget, TargetContext, TargetGenerator, TargetRequest, TargetSettings, TargetStage,
};

const NAME: &str = "folds target";

/// Settings of a momentum copy of the encoder that sees the hidden patches in folds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FoldsConfig {
    /// Number of folds of the hidden patches of an image; it divides their number. Default 3.
    pub folds: usize,
    /// Share of the copy kept by each epoch. Default 0.96.
    pub momentum: f64,
    /// Epsilon of the weightless norm on each token, which uses the unbiased deviation. Default 1e-6.
    pub layer_norm_eps: f64,
}

impl Default for FoldsConfig {
    fn default() -> Self {
        Self {
            folds: 3,
            momentum: 0.96,
            layer_norm_eps: 1e-6,
        }
    }
}

impl Part for FoldsConfig {
    const ABOUT: &'static str = "features of hidden patches, from a momentum copy of the encoder that sees one fold at a time";
    const PAPER: &'static str = "SdAE: Chen et al., ECCV 2022, arXiv 2208.00449";
}

impl TargetSettings for FoldsConfig {
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
        let (when, start) = (EmaTiming::EndOfEpoch, EmaStart::Copy);
        let ema = Ema::new(cx.student, &store, momentum, when, start)?;
        let target = FoldTarget::new(copy, cx.norm.clone(), (self.folds, None))?;
        Ok(BuiltTarget {
            teacher: Some((store, ema)),
            ..BuiltTarget::new(target.layer_norm(self.layer_norm_eps)?, cx.encoder.dim())
        })
    }

    fn objective(&self) -> Box<dyn ObjectiveSettings> {
        Box::new(CosineConfig::sdae(self.folds))
    }
}

/// Tokens of hidden patches from a teacher that sees one fold at a time (multi-fold masking, Chen et
/// al., ECCV 2022, section 3.3).
///
/// The hidden patches of an image, in the mask's order, are cut into equal folds. The teacher sees each fold alone,
/// with its class token. The rows are those of the hidden patches in the mask's order, or of the first `tokens` of
/// them. The teacher's intermediates are traced as `teacher.*`, its tokens in that order as
/// `teacher.patches`.
pub struct FoldTarget {
    teacher: Box<dyn Encoder>,
    norm: Norm,
    folds: usize,
    tokens: Option<usize>,
    layer_norm_eps: Option<f64>,
}

impl FoldTarget {
    /// Uses `teacher` on the images of view 0, normalised with `norm`: all hidden patches of an image, or the first
    /// `tokens`, in `folds`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if there is no fold, or `tokens` is not a multiple of `folds`.
    pub fn new(
        teacher: impl Encoder + 'static,
        norm: Norm,
        (folds, tokens): (usize, Option<usize>),
    ) -> Result<Self> {
        let even = tokens.is_none_or(|tokens| tokens > 0 && tokens.is_multiple_of(folds.max(1)));
        let (field, value, fix) = match folds {
            0 => ("folds", 0, "use 3".to_owned()),
            _ if !even => {
                let tokens = tokens.unwrap_or_default();
                let below = (tokens / folds * folds).max(folds);
                (
                    "tokens",
                    tokens,
                    format!("use a multiple of folds = {folds}, such as {below}"),
                )
            }
            _ => {
                return Ok(Self {
                    teacher: Box::new(teacher),
                    norm,
                    folds,
                    tokens,
                    layer_norm_eps: None,
                });
            }
        };
        let why = "the teacher's patches are cut into equal folds, at least one";
        Err(Error::config(NAME, field, value, why, fix))
    }

    /// Normalises each token with its mean and unbiased deviation.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `eps` is not positive.
    pub fn layer_norm(mut self, eps: f64) -> Result<Self> {
        if eps.is_nan() || eps <= 0. {
            let (why, fix) = ("it must be positive", "use 1e-6");
            return Err(Error::config(NAME, "layer_norm_eps", eps, why, fix));
        }
        self.layer_norm_eps = Some(eps);
        Ok(self)
    }
}

/// Masks that show an encoder one fold of the hidden patches at a time: `folds * rows` rows, copy-major. Each
/// row lists only the patches of its fold.
///
/// The first `tokens` hidden patches of each row (all if `None`) are cut in the mask's order; a remainder that does not
/// fill the folds is dropped.
///
/// # Errors
///
/// [`Error::Shape`] if rows hide different numbers of patches, or too few.
pub fn folds(mask: &Mask, folds: usize, tokens: Option<usize>) -> Result<Mask> {
    let hidden = mask.width() - mask.exact_keep()?;
    let each = tokens.unwrap_or(hidden) / folds.max(1);
    if each == 0 || tokens.is_some_and(|tokens| tokens > hidden) {
        return Err(Error::shape(
            "hidden patches to cut into folds",
            format!("at least {}", tokens.unwrap_or(folds).max(folds)),
            hidden,
            "hide more patches, or use fewer folds",
        ));
    }
    let rows = (0..folds).flat_map(|fold| (0..mask.rows()).map(move |row| (fold, row)));
    let order = rows.flat_map(|(fold, row)| &mask.hidden(row)[fold * each..(fold + 1) * each]);
    let order = order.copied().collect();
    Mask::new(mask.grid(), order, vec![each; folds * mask.rows()])
}

impl TargetGenerator for FoldTarget {
    fn stage(&self) -> TargetStage {
        TargetStage::Mask
    }

    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let mask = rq.mask.ok_or_else(|| {
            let fix = "request it after the mask is drawn";
            Error::unsupported("features of hidden patches", "there is no mask", fix)
        })?;
        let hidden = mask.width() - mask.exact_keep()?;
        if self.tokens.is_none() && !hidden.is_multiple_of(self.folds) {
            return Err(Error::shape(
                "hidden patches of an image",
                format!("a multiple of folds = {}", self.folds),
                hidden,
                "use other folds, or another mask_ratio",
            ));
        }
        let parts = folds(mask, self.folds, self.tokens)?;
        let image = rq.batch.view(0)?.normalized(&self.norm)?;
        let (step, want) = (rq.step.teacher(), EncodeOptions::default());
        let seen = Masking::Drop(&parts);
        let encoded = self.teacher.encode(&image, seen, &want, &step)?;
        let rows = encoded.patches()?.detach();
        let (_, each, dim) = rows.dims3()?;
        // Rows are fold-major; put those of an image together, in the order of its hidden patches.
        let rows = rows.reshape((self.folds, mask.rows(), each, dim))?;
        let rows = rows.transpose(0, 1)?.contiguous()?;
        let rows = rows.reshape((mask.rows(), self.folds * each, dim))?;
        step.trace("patches", || Ok(rows.clone()))?;
        let rows = match self.layer_norm_eps {
            Some(eps) => standardize(&rows, eps)?,
            None => rows,
        };
        Ok(Target {
            rows: Rows::Masked,
            ..Target::patches(rows)
        })
    }
}

impl std::fmt::Debug for FoldTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FoldTarget")
            .field("folds", &self.folds)
            .field("tokens", &self.tokens)
            .field("layer_norm_eps", &self.layer_norm_eps)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::encoders::{Vit, VitConfig};
    use mim_core::{Batch, PatchGrid, StepContext, View};

    fn mask() -> Mask {
        let order = vec![0, 3, 5, 2, 4, 1, 1, 3, 4, 5, 0, 2];
        Mask::new(PatchGrid::new(2, 3), order, vec![2, 2]).unwrap()
    }

    #[test]
    fn folds_follow_the_masks_order_and_a_remainder_is_dropped() {
        let seen = |parts: &Mask| -> Vec<Vec<u32>> {
            (0..parts.rows())
                .map(|row| parts.visible(row).to_vec())
                .collect()
        };
        let two = folds(&mask(), 2, None).unwrap();
        assert_eq!(seen(&two), [[5, 2], [4, 5], [4, 1], [0, 2]]);
        let three = folds(&mask(), 3, None).unwrap();
        assert_eq!(seen(&three), [[5], [4], [2], [5], [4], [0]]);
        let first = folds(&mask(), 1, Some(3)).unwrap();
        assert_eq!(seen(&first), [[5, 2, 4], [4, 5, 0]]);
        assert!(folds(&mask(), 5, None).is_err() && folds(&mask(), 1, Some(5)).is_err());
    }

    #[test]
    fn the_teacher_sees_each_fold_alone() {
        let vit = VitConfig {
            image_size: mim_core::ImageSize {
                height: 8,
                width: 12,
            },
            patch_size: 4,
            embed_dim: 8,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        };
        let store = ParamStore::cpu(0);
        let teacher = Vit::new(&store.root(), &vit).unwrap();
        let pixels = Tensor::rand(0f32, 1f32, (2, 3, 8, 12), &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels.clone(), vec![]).unwrap());
        let (mask, step) = (mask(), StepContext::new(0));
        let target = |folds: usize, tokens: Option<usize>| -> Result<Target> {
            let target = FoldTarget::new(teacher.clone(), Norm::imagenet(), (folds, tokens))?;
            target.generate(&TargetRequest {
                batch: &batch,
                grid: mask.grid(),
                mask: Some(&mask),
                student: None,
                step: &step,
            })
        };
        let made = target(2, None).unwrap();
        assert_eq!(
            (made.rows, made.patches.dims()),
            (Rows::Masked, &[2, 4, 8][..])
        );
        assert!(!made.patches.track_op());
        // The second fold of the second image: patches 0 and 2.
        let image = pixels.narrow(0, 1, 1).unwrap();
        let alone = Mask::new(mask.grid(), vec![0, 2], vec![2]).unwrap();
        let want = EncodeOptions::default();
        let alone = teacher
            .encode(&image, Masking::Drop(&alone), &want, &step)
            .unwrap();
        let values = |xs: Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let fold = made
            .patches
            .narrow(0, 1, 1)
            .unwrap()
            .narrow(1, 2, 2)
            .unwrap();
        for (a, b) in values(fold).iter().zip(values(alone.patches().unwrap())) {
            assert!((a - b).abs() < 1e-5, "{a} against {b}");
        }
        let error = target(3, None).unwrap_err().to_string();
        assert!(error.contains("a multiple of folds = 3"), "{error}");
        assert_eq!(target(3, Some(3)).unwrap().patches.dims(), [2, 3, 8]);
        assert!(target(0, None).is_err() && target(2, Some(3)).is_err());
    }
}
