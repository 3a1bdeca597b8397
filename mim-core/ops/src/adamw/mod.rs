//! One step of AdamW on one parameter, in place.

mod cpu;
mod gpu;
mod reference;

use candle_core::Tensor;
use rayon::prelude::*;

use super::cpu_slices::{change, check_in_place, floats, is_f32_on_cpu};
use super::gpu::is_supported;
use super::profile::{Pass, timer};
use crate::{Error, Result};

/// Hyperparameters of one AdamW step; they may differ between parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay rate of the mean of gradients, in `[0, 1)`.
    pub beta1: f64,
    /// Decay rate of the mean of squared gradients, in `[0, 1)`.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: usize,
}

impl AdamWStep {
    /// `1 - beta1^step` and `1 - beta2^step`.
    fn corrections(&self) -> (f64, f64) {
        let step = self.step as f64;
        (1.0 - self.beta1.powf(step), 1.0 - self.beta2.powf(step))
    }

    fn check(&self) -> Result<()> {
        let bad = |field, value: f64, why| {
            Err(Error::argument(
                "AdamWStep",
                field,
                value,
                why,
                "correct it",
            ))
        };
        for (field, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return bad(field, beta, "decay rates lie in [0, 1)");
            }
        }
        if self.step == 0 {
            return bad("step", 0.0, "steps count from 1");
        }
        Ok(())
    }
}

/// Updates `param` and its moments in place. All four tensors have the same shape.
///
/// As in PyTorch:
/// `p ← p (1 - lr wd)`, `m ← β1 m + (1 - β1) g`, `v ← β2 v + (1 - β2) g²`,
/// `p ← p - lr / (1 - β1ᵗ) · m / (√v / √(1 - β2ᵗ) + eps)`. The moments start at 0.
/// Loshchilov and Hutter (ICLR 2019), Algorithm 2. A `Var` is updated through its tensor; every
/// view of it sees the new values.
///
/// # Errors
///
/// [`Error::InvalidArgument`] for a step of 0 or a decay outside `[0, 1)`, [`Error::Shape`] if
/// shapes differ, [`Error::Unsupported`] if the operands share storage or are not contiguous.
pub fn adamw_step(
    param: &Tensor,
    grad: &Tensor,
    exp_avg: &Tensor,
    exp_avg_sq: &Tensor,
    step: &AdamWStep,
) -> Result<()> {
    step.check()?;
    let targets = [param, exp_avg, exp_avg_sq];
    check_in_place("adamw_step", &targets, &[grad])?;
    if !is_f32_on_cpu(&[param, grad, exp_avg, exp_avg_sq]) {
        return reference::adamw_step(param, grad, exp_avg, exp_avg_sq, step);
    }
    let grad = grad.contiguous()?;
    let grad = floats(&grad)?;
    change(param, |param| {
        change(exp_avg, |exp_avg| {
            change(exp_avg_sq, |exp_avg_sq| {
                let state = cpu::State {
                    param,
                    exp_avg,
                    exp_avg_sq,
                };
                cpu::adamw_step(state, &grad, step);
                Ok(())
            })
        })
    })?;
    Ok(())
}

/// A parameter with its gradient and optimizer state, for [`adamw_step`].
#[derive(Debug, Clone, Copy)]
pub struct AdamWParam<'a> {
    /// The parameter, updated in place.
    pub param: &'a Tensor,
    /// Its gradient.
    pub grad: &'a Tensor,
    /// Mean of gradients, updated in place.
    pub exp_avg: &'a Tensor,
    /// Mean of squared gradients, updated in place.
    pub exp_avg_sq: &'a Tensor,
    /// Hyperparameters of this step.
    pub step: AdamWStep,
}

/// [`adamw_step`] on many parameters: in parallel on all threads, or in one launch on a GPU.
///
/// # Errors
///
/// As [`adamw_step`]; other parameters may have been updated already.
pub fn adamw_steps(all: &[AdamWParam<'_>]) -> Result<()> {
    let on_gpu = |m: &AdamWParam<'_>| is_supported(&[m.param, m.grad, m.exp_avg, m.exp_avg_sq]);
    let _timer = timer("adamw", Pass::Update, &[], 0.);
    if all.is_empty() || !all.iter().all(on_gpu) {
        return all
            .par_iter()
            .with_max_len(1)
            .try_for_each(|m| adamw_step(m.param, m.grad, m.exp_avg, m.exp_avg_sq, &m.step));
    }
    for moving in all {
        moving.step.check()?;
        let targets = [moving.param, moving.exp_avg, moving.exp_avg_sq];
        check_in_place("adamw_steps", &targets, &[moving.grad])?;
    }
    Ok(gpu::adamw_steps(all)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use candle_core::{DType, Device, Var};

    const STEP: AdamWStep = AdamWStep {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.5,
        step: 1,
    };

    fn flat(xs: &Tensor) -> Vec<f32> {
        let xs = xs.to_dtype(DType::F32).unwrap();
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn first_step_moves_by_the_learning_rate() {
        let param = Var::new(&[1f32, 1.], &Device::Cpu).unwrap();
        let view = param.as_tensor().clone();
        let grad = Tensor::new(&[4f32, -0.25], &Device::Cpu).unwrap();
        let (m, v) = (grad.zeros_like().unwrap(), grad.zeros_like().unwrap());
        adamw_step(&param, &grad, &m, &v, &STEP).unwrap();
        for (p, want) in flat(&view).iter().zip([0.95 - 0.1, 0.95 + 0.1]) {
            assert!((p - want).abs() < 1e-6, "{p} against {want}");
        }
        assert!((flat(&m)[0] - 0.4).abs() < 1e-6 && (flat(&v)[0] - 0.8).abs() < 1e-6);
    }

    #[test]
    fn follows_the_reference_over_steps() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let new = |seed| random(seed, &[33, 1000]);
            let zeros = || new(0).zeros_like().unwrap();
            let (p, m, v) = (new(1), zeros(), zeros());
            let other = |xs: &Tensor| xs.copy().unwrap().to_dtype(dtype).unwrap();
            let (rp, rm, rv) = (other(&p), other(&m), other(&v));
            for step in 1..4 {
                let (grad, step) = (new(10 + step as u64), AdamWStep { step, ..STEP });
                adamw_step(&p, &grad, &m, &v, &step).unwrap();
                reference::adamw_step(&rp, &grad, &rm, &rv, &step).unwrap();
            }
            let tolerance = if dtype == DType::BF16 { 0.05 } else { 2e-6 };
            for (got, want) in [(&p, &rp), (&m, &rm), (&v, &rv)] {
                assert_eq!(want.dtype(), dtype);
                for (got, want) in flat(got).iter().zip(flat(want)) {
                    assert!((got - want).abs() <= tolerance * want.abs().max(1.0));
                }
            }
        }
    }

    #[test]
    fn takes_strided_and_half_gradients() {
        let (p, q) = (random(1, &[3, 5]), random(1, &[3, 5]));
        let zeros = || p.zeros_like().unwrap();
        let grad = random(2, &[5, 3]).t().unwrap();
        adamw_step(&p, &grad, &zeros(), &zeros(), &STEP).unwrap();
        let half = grad.to_dtype(DType::BF16).unwrap();
        adamw_step(&q, &half, &zeros(), &zeros(), &STEP).unwrap();
        for (p, q) in flat(&p).iter().zip(flat(&q)) {
            assert!((p - q).abs() < 1e-4, "{p} against {q}"); // the first step is lr * sign
        }
    }

    #[test]
    fn refuses_views_and_wrong_shapes() {
        let xs = || random(1, &[4, 4]);
        let p = xs();
        assert!(adamw_step(&p, &xs(), &p, &xs(), &STEP).is_err());
        assert!(adamw_step(&p, &p, &xs(), &xs(), &STEP).is_err());
        assert!(adamw_step(&p.t().unwrap(), &xs(), &xs(), &xs(), &STEP).is_err());
        assert!(adamw_step(&p, &random(1, &[4]), &xs(), &xs(), &STEP).is_err());
        for step in [
            AdamWStep { step: 0, ..STEP },
            AdamWStep { beta2: 1.0, ..STEP },
        ] {
            assert!(adamw_step(&p, &xs(), &xs(), &xs(), &step).is_err());
        }
    }
}
