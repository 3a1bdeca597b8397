//! The f32 kernel of AdamW: one pass over parameter, gradient and moments.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use rayon::prelude::*;

use super::AdamWStep;
use crate::simd::multiversion;

/// Values per task: large, since seven memory streams take time to start.
const TASK: usize = 64 * 1024;

/// Factors of a step, rounded once from f64.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors {
    pub(super) keep: f32,
    pub(super) beta1: f32,
    pub(super) fresh1: f32,
    pub(super) beta2: f32,
    pub(super) fresh2: f32,
    pub(super) root: f32,
    pub(super) eps: f32,
    pub(super) rate: f32,
}

impl Factors {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel computes in f32"
    )]
    pub(super) fn new(step: &AdamWStep) -> Self {
        let (correction1, correction2) = step.corrections();
        Self {
            keep: (1.0 - step.lr * step.weight_decay) as f32,
            beta1: step.beta1 as f32,
            fresh1: (1.0 - step.beta1) as f32,
            beta2: step.beta2 as f32,
            fresh2: (1.0 - step.beta2) as f32,
            root: correction2.sqrt().recip() as f32,
            eps: step.eps as f32,
            rate: (step.lr / correction1) as f32,
        }
    }
}

/// What a step updates: values of the parameter and of its two moments.
pub(super) struct State<'a> {
    pub(super) param: &'a mut [f32],
    pub(super) exp_avg: &'a mut [f32],
    pub(super) exp_avg_sq: &'a mut [f32],
}

multiversion! {
    fn update(state: State<'_>, grad: &[f32], f: Factors) {
        let moments = state.exp_avg.iter_mut().zip(state.exp_avg_sq);
        for ((p, g), (m, v)) in state.param.iter_mut().zip(grad).zip(moments) {
            *m = *m * f.beta1 + g * f.fresh1;
            *v = *v * f.beta2 + g * g * f.fresh2;
            *p = *p * f.keep - f.rate * (*m / (v.sqrt() * f.root + f.eps));
        }
    }
}

/// One step on all values.
pub(super) fn adamw_step(state: State<'_>, grad: &[f32], step: &AdamWStep) {
    let factors = Factors::new(step);
    let State {
        param,
        exp_avg,
        exp_avg_sq,
    } = state;
    param
        .par_chunks_mut(TASK)
        .zip(exp_avg.par_chunks_mut(TASK))
        .zip(exp_avg_sq.par_chunks_mut(TASK))
        .zip(grad.par_chunks(TASK))
        .for_each(|(((param, exp_avg), exp_avg_sq), grad)| {
            let state = State {
                param,
                exp_avg,
                exp_avg_sq,
            };
            update(state, grad, factors);
        });
}
