//! Self-distillation: agreement of a student with its momentum teacher, across crops and on hidden patches.

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::comm::Reduce;
use crate::params::Params;
use crate::schedule::{Per, Point, Schedule};
use crate::{Error, LossTerms, Mask, Result, StepContext, ops};

const NAME: &str = "self_distillation objective";

/// Settings of [`SelfDistillation`]; `Default` is iBOT's recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelfDistillationConfig {
    /// Temperature of the student's logits. Default 0.1.
    pub student_temp: f64,
    /// Temperature of the teacher's class-token logits. Default: from 0.04 to 0.07 in 30 epochs.
    pub teacher_temp: Schedule,
    /// Temperature of the teacher's patch logits. Default: from 0.04 to 0.07 in 30 epochs.
    pub teacher_patch_temp: Schedule,
    /// Share of the centres kept by each step. Default 0.9.
    pub center_momentum: f64,
    /// Weight of the loss on class tokens. Default 1.
    pub cls_weight: f64,
    /// Weight of the loss on hidden patches. Default 1.
    pub patch_weight: f64,
}

impl Default for SelfDistillationConfig {
    fn default() -> Self {
        Self {
            student_temp: 0.1,
            teacher_temp: Self::temperature((0.04, 0.07), 0, 30),
            teacher_patch_temp: Self::temperature((0.04, 0.07), 0, 30),
            center_momentum: 0.9,
            cls_weight: 1.,
            patch_weight: 1.,
        }
    }
}

impl SelfDistillationConfig {
    /// DINO's temperature schedule: `first` until epoch `start`, then a linear table of `epochs` values
    /// from `first` to `last`, both included, then `last`.
    pub fn temperature((first, last): (f64, f64), start: usize, epochs: usize) -> Schedule {
        let mut points = vec![
            (0, first),
            (start, first),
            (start + epochs.max(2) - 1, last),
        ];
        match epochs {
            // An empty table jumps at `start`.
            0 if start == 0 => points = vec![(0, last)],
            0 => points = vec![(0, first), (start - 1, first), (start, last)],
            _ => {}
        }
        points.dedup_by_key(|(epoch, _)| *epoch);
        let point = |(epoch, value): (usize, f64)| Point {
            epoch: epoch as f64,
            value,
        };
        Schedule::Piecewise {
            points: points.into_iter().map(point).collect(),
            per: Per::Epoch,
        }
    }

    /// Checks the settings and builds the objective for these numbers of class-token and patch logits.
    ///
    /// Buffers `center` `[1, out_dim]` and `center2` `[1, 1, patch_dim]` under `params`, initialised to zero.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a temperature is not positive, a weight negative or the momentum
    /// not in `[0, 1]`.
    pub fn build(
        &self,
        params: &Params,
        (out_dim, patch_dim): (usize, usize),
    ) -> Result<SelfDistillation> {
        let bad = |field: &'static str, value: f64, why: &'static str| {
            Error::config(
                NAME,
                field,
                value,
                why,
                "correct it, or remove it to use the default",
            )
        };
        if self.student_temp.is_nan() || self.student_temp <= 0. {
            return Err(bad(
                "student_temp",
                self.student_temp,
                "it must be positive",
            ));
        }
        if !(0. ..=1.).contains(&self.center_momentum) {
            let why = "it must be in [0, 1]";
            return Err(bad("center_momentum", self.center_momentum, why));
        }
        for (field, weight) in [
            ("cls_weight", self.cls_weight),
            ("patch_weight", self.patch_weight),
        ] {
            if !weight.is_finite() || weight < 0. {
                return Err(bad(field, weight, "it must be finite and not negative"));
            }
        }
        self.teacher_temp.validate()?;
        self.teacher_patch_temp.validate()?;
        let zeros =
            |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, params.device());
        Ok(SelfDistillation {
            config: self.clone(),
            center: params.buffer("center", zeros(&[1, out_dim])?)?,
            center2: params.buffer("center2", zeros(&[1, 1, patch_dim])?)?,
        })
    }
}

/// Logits of one step; crops are stacked crop by crop, global ones first.
#[derive(Debug, Clone)]
pub struct DistillationLogits {
    /// Number of global crops.
    pub globals: usize,
    /// Teacher logits of the class tokens of all global crops, `[globals * images, out_dim]`.
    pub teacher_cls: Tensor,
    /// Student logits of the class tokens of all crops, `[crops * images, out_dim]`.
    pub student_cls: Tensor,
    /// Teacher logits of the hidden patches in the mask's order, `[hidden, patch_dim]`. If nothing is
    /// hidden, one row of any patch, which is ignored.
    pub teacher_patch: Tensor,
    /// Student logits of the same patches.
    pub student_patch: Tensor,
    /// Mean teacher logits over all patches of all global crops, `[1, patch_dim]`.
    pub patch_mean: Tensor,
}

/// Cross-entropy between the softmax of a student and that of a teacher with centred and sharpened logits.
///
/// With `P = softmax((z_t - c) / t)`: `cls` is the mean over all pairs of a global crop of the teacher
/// and another crop of the student. `patch` averages over the hidden patches of each global crop, then over
/// global crops; it is 0 where nothing is hidden. Afterwards the centres move towards the mean logits of
/// the teacher, over all processes. DINO (Caron et al., ICCV 2021), iBOT (Zhou et al., ICLR 2022), eq. 1 to 3.
#[derive(Debug, Clone)]
pub struct SelfDistillation {
    config: SelfDistillationConfig,
    center: Var,
    center2: Var,
}

impl SelfDistillation {
    /// Terms `cls` and `patch` for `logits` and the mask of the global crops, which has one row per crop and image.
    ///
    /// In training it also moves the centres, traced as `center` and `center2`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the logits do not match each other.
    pub fn loss(
        &self,
        logits: &DistillationLogits,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<LossTerms> {
        let (cls, patch) = (self.cls(logits, step)?, self.patch(logits, mask, step)?);
        step.trace("loss.cls", || Ok(cls.clone()))?;
        step.trace("loss.patch", || Ok(patch.clone()))?;
        let mut terms = LossTerms::default();
        terms.push("cls", cls, self.config.cls_weight)?;
        terms.push("patch", patch, self.config.patch_weight)?;
        if step.training {
            let mean = logits.teacher_cls.detach().mean_keepdim(0)?;
            self.follow("center", &self.center, &mean, step)?;
            self.follow("center2", &self.center2, &logits.patch_mean.detach(), step)?;
        }
        Ok(terms)
    }

    fn cls(&self, logits: &DistillationLogits, step: &StepContext) -> Result<Tensor> {
        let (globals, (rows, dim)) = (logits.globals, logits.teacher_cls.dims2()?);
        let all = logits.student_cls.dim(0)?;
        let images = rows / globals.max(1);
        let locals = (all / images.max(1)).saturating_sub(globals);
        let pairs = globals * (globals + locals).saturating_sub(1);
        if images * globals != rows || images * (globals + locals) != all || pairs == 0 {
            return Err(Error::shape(
                "crops of self-distillation",
                "at least two crops per image, at least one of them global",
                format!("{globals} global crops, {rows} teacher rows, {all} student rows"),
                "use the view plan of the method",
            ));
        }
        let center = self.center.as_detached_tensor();
        let targets = self.probabilities(
            &logits.teacher_cls,
            &center,
            &self.config.teacher_temp,
            step,
        )?;
        let targets = targets.reshape((globals, images, dim))?;
        // The sum over all global crops minus the student's own crop.
        let sum = targets.sum_keepdim(0)?;
        let others = sum.broadcast_sub(&targets)?.flatten_to(1)?;
        let losses = self.losses(&logits.student_cls.narrow(0, 0, rows)?, &others)?;
        let mut total = losses.sum_all()?;
        if locals > 0 {
            let logits = logits.student_cls.narrow(0, rows, all - rows)?;
            // One target per image, the same for each local crop.
            let losses = self.losses(&logits, &sum.squeeze(0)?)?;
            total = (total + losses.sum_all()?)?;
        }
        Ok((total / (pairs * images) as f64)?)
    }

    fn patch(
        &self,
        logits: &DistillationLogits,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<Tensor> {
        let (teacher, student) = (&logits.teacher_patch, &logits.student_patch);
        let (rows, total) = (mask.rows(), mask.hidden_total().max(1));
        if teacher.dims() != student.dims() || teacher.dim(0)? != total {
            return Err(Error::shape(
                "logits of hidden patches",
                format!("[{total}, patch_dim] from both networks"),
                (teacher.dims(), student.dims()),
                "give the hidden rows of the mask",
            ));
        }
        let center = self.center2.as_detached_tensor().flatten_to(1)?;
        let targets =
            self.probabilities(teacher, &center, &self.config.teacher_patch_temp, step)?;
        let losses = self.losses(student, &targets)?;
        #[expect(clippy::cast_possible_truncation, reason = "the loss is f32")]
        let mut shares: Vec<f32> = (0..rows)
            .map(|row| mask.hidden(row).len())
            .flat_map(|count| std::iter::repeat_n(1. / (count * rows) as f64, count))
            .map(|share| share as f32)
            .collect();
        // A row of zero weight: then parameters used only by patches get a zero gradient instead of none.
        shares.resize(total, 0.);
        let shares = ops::upload(shares, total, student.device())?;
        Ok((losses * shares)?.sum_all()?)
    }

    fn probabilities(
        &self,
        logits: &Tensor,
        center: &Tensor,
        temperature: &Schedule,
        step: &StepContext,
    ) -> Result<Tensor> {
        let centred = logits.detach().broadcast_sub(center)?;
        Ok(ops::softmax(&(centred / temperature.at(step))?)?)
    }

    /// The cross-entropy of each row of the student's logits.
    fn losses(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        Ok(ops::soft_cross_entropy(
            logits,
            targets,
            self.config.student_temp,
        )?)
    }

    /// Moves a centre towards the mean logits over all processes.
    fn follow(&self, name: &str, center: &Var, mean: &Tensor, step: &StepContext) -> Result<()> {
        let kept = self.config.center_momentum;
        let mean = step.comm.all_reduce(mean, Reduce::Mean)?;
        let mean = mean.reshape(center.shape())?;
        let moved = ((center.as_detached_tensor() * kept)? + (mean * (1. - kept))?)?;
        center.set(&moved)?;
        step.trace(name, || Ok(center.as_detached_tensor().copy()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::testing::noise;
    use crate::{ParamStore, PatchGrid};

    fn epochs(schedule: &Schedule, epochs: usize) -> Vec<f64> {
        let at = |epoch| {
            schedule.at(&StepContext {
                epoch,
                epochs,
                ..StepContext::new(0)
            })
        };
        (0..epochs).map(at).collect()
    }

    #[test]
    fn temperatures_are_tables_with_both_ends() {
        let close = |schedule: &Schedule, wanted: &[f64]| {
            for (got, want) in epochs(schedule, wanted.len()).into_iter().zip(wanted) {
                assert!((got - want).abs() < 1e-12, "{schedule:?}: {got}, {want}");
            }
        };
        let table = |start, epochs| SelfDistillationConfig::temperature((1., 3.), start, epochs);
        close(&table(0, 3), &[1., 2., 3., 3.]);
        close(&table(2, 3), &[1., 1., 1., 2., 3., 3.]);
        close(&table(0, 1), &[1., 3., 3.]);
        close(&table(2, 1), &[1., 1., 1., 3.]);
        close(&table(0, 0), &[3., 3.]);
        close(&table(2, 0), &[1., 1., 3., 3.]);
        close(&table(1, 0), &[1., 3., 3.]);
        for start in 0..3 {
            for epochs in 0..4 {
                table(start, epochs).validate().unwrap();
            }
        }
    }

    fn logits(globals: usize, locals: usize, hidden: usize) -> DistillationLogits {
        DistillationLogits {
            globals,
            teacher_cls: noise(&[2 * globals, 4], 1),
            student_cls: noise(&[2 * (globals + locals), 4], 2),
            teacher_patch: noise(&[hidden, 4], 3),
            student_patch: noise(&[hidden, 4], 4),
            patch_mean: noise(&[1, 4], 5),
        }
    }

    fn objective() -> (ParamStore, SelfDistillation) {
        let store = ParamStore::cpu(0);
        let config = SelfDistillationConfig::default();
        let objective = config.build(&store.root(), (4, 4)).unwrap();
        (store, objective)
    }

    fn mask(bits: &[u8]) -> Mask {
        Mask::from_bits(PatchGrid::new(1, 2), bits).unwrap()
    }

    #[test]
    fn centres_follow_the_teacher_in_training_only() {
        let (store, objective) = objective();
        let value = |name: &str| -> Vec<f32> {
            let var = store.var(name).unwrap();
            var.flatten_all().unwrap().to_vec1().unwrap()
        };
        let logits = logits(2, 1, 1);
        let mask = mask(&[0; 8]);
        let terms = objective
            .loss(&logits, &mask, &StepContext::inference())
            .unwrap();
        assert_eq!(terms.terms()[1].1.to_scalar::<f32>().unwrap(), 0.);
        assert_eq!(value("center"), [0.; 4]);
        objective
            .loss(&logits, &mask, &StepContext::new(0))
            .unwrap();
        let mean: Vec<f32> = logits.patch_mean.flatten_all().unwrap().to_vec1().unwrap();
        for (center, mean) in value("center2").into_iter().zip(mean) {
            assert!((center - 0.1 * mean).abs() < 1e-7);
        }
        assert_eq!(store.var("center2").unwrap().dims(), [1, 1, 4]);
    }

    #[test]
    fn the_class_loss_is_the_mean_over_all_pairs_of_crops() {
        let (_, objective) = objective();
        for (globals, locals) in [(2, 3), (3, 0), (1, 1)] {
            let logits = logits(globals, locals, 1);
            let mask = mask(&vec![0; 4 * globals]);
            let step = StepContext::inference();
            let terms = objective.loss(&logits, &mask, &step).unwrap();
            let found: f32 = terms.terms()[0].1.to_scalar().unwrap();
            let rows = |xs: &Tensor, temperature: f64| -> Vec<Vec<f32>> {
                let xs = ops::softmax(&(xs / temperature).unwrap()).unwrap();
                xs.to_vec2().unwrap()
            };
            let teacher = rows(&logits.teacher_cls, 0.04);
            let student = rows(&logits.student_cls, 0.1);
            let (mut sum, mut pairs) = (0., 0.);
            for (t, p) in teacher.iter().enumerate() {
                for (s, q) in student.iter().enumerate() {
                    // Two images per crop.
                    if t % 2 == s % 2 && t != s {
                        sum -= p.iter().zip(q).map(|(p, q)| p * q.ln()).sum::<f32>();
                        pairs += 1.;
                    }
                }
            }
            let want: f32 = sum / pairs;
            assert!((found - want).abs() < 1e-5 * want, "{found} against {want}");
        }
    }

    #[test]
    fn images_weigh_the_same_for_any_number_of_hidden_patches() {
        // Two hidden patches in one row and one in another, of four rows: weights 1/8, 1/8 and 1/4.
        let (_, objective) = objective();
        let logits = logits(2, 0, 3);
        let mask = mask(&[1, 1, 0, 0, 0, 1, 0, 0]);
        let step = StepContext::inference();
        let patch = |logits: &DistillationLogits, mask: &Mask| -> f32 {
            let terms = objective.loss(logits, mask, &step).unwrap();
            terms.terms()[1].1.to_scalar().unwrap()
        };
        let alone = |at: usize| {
            let row = |xs: &Tensor| xs.narrow(0, at, 1).unwrap();
            let one = DistillationLogits {
                teacher_patch: row(&logits.teacher_patch),
                student_patch: row(&logits.student_patch),
                ..logits.clone()
            };
            // A fourth of the loss of the one hidden patch in four rows.
            4. * patch(&one, &self::mask(&[1, 0, 0, 0, 0, 0, 0, 0]))
        };
        let wanted = alone(0) / 8. + alone(1) / 8. + alone(2) / 4.;
        assert!((patch(&logits, &mask) - wanted).abs() < 1e-6);
    }

    #[test]
    fn refuses_single_crops_and_invalid_settings() {
        let (_, objective) = objective();
        let step = StepContext::inference();
        let one = logits(1, 0, 1);
        let error = objective.loss(&one, &mask(&[0; 4]), &step).unwrap_err();
        assert!(error.to_string().contains("at least two"), "{error}");
        assert!(
            objective
                .loss(&logits(1, 1, 1), &mask(&[0; 4]), &step)
                .is_ok()
        );
        let wrong = logits(2, 0, 2);
        assert!(
            objective
                .loss(&wrong, &mask(&[1, 0, 0, 0, 0, 0, 0, 0]), &step)
                .is_err()
        );
        let config = SelfDistillationConfig {
            student_temp: 0.,
            ..SelfDistillationConfig::default()
        };
        let error = config
            .build(&ParamStore::cpu(0).root(), (4, 4))
            .unwrap_err();
        assert!(error.to_string().contains("student_temp"), "{error}");
    }
}
