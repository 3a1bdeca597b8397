//! One LARS step on many parameters, in place.

mod cpu;
mod gpu;
mod reference;

use candle_core::Tensor;
use rayon::prelude::*;

use super::cpu_slices::{check_in_place, is_f32_on_cpu};
use super::gpu::is_supported;
use super::profile::{Pass, timer};
use crate::Result;

/// Hyperparameters of one LARS step; they may differ between parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LarsStep {
    /// Learning rate.
    pub lr: f64,
    /// Share of the previous direction that is kept.
    pub momentum: f64,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
    /// The trust coefficient; `None` does not rescale the gradient.
    pub trust: Option<f64>,
}

/// A parameter with its gradient and optimizer state.
#[derive(Debug, Clone, Copy)]
pub struct LarsParam<'a> {
    /// The parameter, updated in place.
    pub param: &'a Tensor,
    /// Its gradient.
    pub grad: &'a Tensor,
    /// The momentum buffer, updated in place; zeros before the first step.
    pub momentum: &'a Tensor,
    /// Hyperparameters of this step.
    pub step: LarsStep,
}

/// Updates parameters by LARS, in parallel on all threads. On a GPU this is two launches, without a copy to the host.
///
/// `g ← g + wd p`, `q = trust ‖p‖ / ‖g‖`, `μ ← momentum μ + q g`, `p ← p - lr μ`; q is 1 if a norm is 0 or there is
/// no trust coefficient. You et al., arXiv 1708.03888, as in MAE's linear
/// probing (`util/lars.py`), where the learning rate is applied after the momentum.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) if shapes differ, [`Error::Unsupported`](crate::Error::Unsupported) if
/// the operands of a parameter share storage or are not contiguous; other parameters may have been updated already.
pub fn lars_steps(all: &[LarsParam<'_>]) -> Result<()> {
    let _timer = timer("lars", Pass::Update, &[], 0.);
    for moving in all {
        check_in_place("lars", &[moving.param, moving.momentum], &[moving.grad])?;
    }
    let operands = |m: &LarsParam<'_>| is_supported(&[m.param, m.grad, m.momentum]);
    if !all.is_empty() && all.iter().all(operands) {
        return Ok(gpu::lars_steps(all)?);
    }
    all.par_iter().with_max_len(1).try_for_each(|moving| {
        if is_f32_on_cpu(&[moving.param, moving.grad, moving.momentum]) {
            return Ok(cpu::lars_step(moving)?);
        }
        reference::lars_step(moving)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use candle_core::{DType, Device, Var};

    const STEP: LarsStep = LarsStep {
        lr: 2.,
        momentum: 0.5,
        weight_decay: 0.,
        trust: Some(0.1),
    };

    fn flat(xs: &Tensor) -> Vec<f32> {
        let xs = xs.to_dtype(DType::F32).unwrap();
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn step(param: &Tensor, grad: &Tensor, momentum: &Tensor, step: LarsStep) -> Result<()> {
        lars_steps(&[LarsParam {
            param,
            grad,
            momentum,
            step,
        }])
    }

    #[test]
    fn step_length_follows_the_norm_of_the_parameter() {
        let param = Var::new(&[3f32, -4.], &Device::Cpu).unwrap();
        let grad = Tensor::new(&[0f32, 10.], &Device::Cpu).unwrap();
        let momentum = grad.zeros_like().unwrap();
        step(&param, &grad, &momentum, STEP).unwrap();
        // The gradient times 0.1 * 5 / 10, twice.
        assert_eq!(
            (flat(&momentum), flat(&param)),
            (vec![0., 0.5], vec![3., -5.])
        );
        let plain = LarsStep {
            trust: None,
            weight_decay: 0.5,
            ..STEP
        };
        step(&param, &grad, &momentum, plain).unwrap();
        assert_eq!(flat(&momentum), [1.5, 0.25 + 10. - 2.5]);
    }

    #[test]
    fn a_norm_of_zero_does_not_rescale_the_gradient() {
        let zeros = || Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
        let grad = Tensor::new(&[1f32, 2.], &Device::Cpu).unwrap();
        let (param, momentum) = (zeros(), zeros());
        step(&param, &grad, &momentum, STEP).unwrap();
        assert_eq!(flat(&param), [-2., -4.]);
        step(&param, &zeros(), &momentum, STEP).unwrap();
        assert_eq!(flat(&param), [-3., -6.]);
    }

    #[test]
    fn follows_the_reference_over_steps() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let (param, momentum) = (random(1, &[33, 1000]), random(2, &[33, 1000]));
            let other = |xs: &Tensor| xs.copy().unwrap().to_dtype(dtype).unwrap();
            let (other_param, other_momentum) = (other(&param), other(&momentum));
            for seed in 10..13 {
                // Not contiguous, as gradients can be.
                let grad = random(seed, &[1000, 33]).t().unwrap();
                let decayed = LarsStep {
                    weight_decay: 0.1,
                    ..STEP
                };
                step(&param, &grad, &momentum, decayed).unwrap();
                reference::lars_step(&LarsParam {
                    param: &other_param,
                    grad: &grad,
                    momentum: &other_momentum,
                    step: decayed,
                })
                .unwrap();
            }
            let tolerance = if dtype == DType::BF16 { 0.05 } else { 2e-6 };
            for (got, want) in [(&param, &other_param), (&momentum, &other_momentum)] {
                for (got, want) in flat(got).iter().zip(flat(want)) {
                    assert!((got - want).abs() <= tolerance * want.abs().max(1.0));
                }
            }
        }
    }

    #[test]
    fn refuses_views_and_wrong_shapes() {
        let xs = || random(1, &[4, 4]);
        let param = xs();
        assert!(step(&param, &xs(), &param, STEP).is_err());
        assert!(step(&param.t().unwrap(), &xs(), &xs(), STEP).is_err());
        assert!(step(&param, &random(1, &[4]), &xs(), STEP).is_err());
    }
}
