//! f32 kernels of LARS: one pass for both norms, one for the update.

#![expect(
    unsafe_code,
    reason = "`multiversion` calls instructions only after it detected them"
)]

use candle_core::Result;
use rayon::prelude::*;

use super::{LarsParam, LarsStep};
use crate::cpu_slices::{change, floats};
use crate::partition::rows_per_task;
use crate::simd::multiversion;

/// Number of partial sums: four AVX-512 registers, so that their latencies overlap.
const LANES: usize = 32;

/// Factors of a step, rounded once from f64.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors {
    pub(super) lr: f32,
    pub(super) momentum: f32,
    pub(super) decay: f32,
    /// Negative if the step has no trust coefficient.
    pub(super) trust: f32,
}

impl Factors {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel computes in f32"
    )]
    pub(super) fn new(step: &LarsStep) -> Self {
        Self {
            lr: step.lr as f32,
            momentum: step.momentum as f32,
            decay: step.weight_decay as f32,
            trust: step.trust.unwrap_or(-1.) as f32,
        }
    }

    /// The factor of the decayed gradient, from the sums of squares of parameter and gradient.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel computes in f32"
    )]
    fn scale(&self, [param, grad]: [f64; 2]) -> f32 {
        if self.trust < 0. || param == 0. || grad == 0. {
            return 1.;
        }
        (f64::from(self.trust) * param.sqrt() / grad.sqrt()) as f32
    }
}

multiversion! {
    /// Sums of squares of parameter and decayed gradient.
    fn squares(param: &[f32], grad: &[f32], decay: f32) -> [f64; 2] {
        let (mut ps, mut gs) = ([0f64; LANES], [0f64; LANES]);
        for (param, grad) in param.chunks(LANES).zip(grad.chunks(LANES)) {
            let lanes = ps.iter_mut().zip(&mut gs);
            for ((sum_p, sum_g), (p, g)) in lanes.zip(param.iter().zip(grad)) {
                let g = f64::from(g + decay * p);
                *sum_p += f64::from(*p) * f64::from(*p);
                *sum_g += g * g;
            }
        }
        [ps.iter().sum(), gs.iter().sum()]
    }
}

multiversion! {
    fn update(param: &mut [f32], momentum: &mut [f32], grad: &[f32], f: Factors, scale: f32) {
        for ((p, m), g) in param.iter_mut().zip(momentum).zip(grad) {
            *m = *m * f.momentum + (g + f.decay * *p) * scale;
            *p -= f.lr * *m;
        }
    }
}

/// One step of a parameter.
pub(super) fn lars_step(moving: &LarsParam<'_>) -> Result<()> {
    let (factors, task) = (Factors::new(&moving.step), rows_per_task(1));
    let grad = moving.grad.contiguous()?;
    let grad = floats(&grad)?;
    change(moving.param, |param| {
        let parts = param.par_chunks(task).zip(grad.par_chunks(task));
        // Blocks of fixed size, added in order.
        let parts: Vec<_> = parts.map(|(p, g)| squares(p, g, factors.decay)).collect();
        let sum = parts
            .iter()
            .fold([0.; 2], |sum, part| [sum[0] + part[0], sum[1] + part[1]]);
        let scale = factors.scale(sum);
        change(moving.momentum, |momentum| {
            param
                .par_chunks_mut(task)
                .zip(momentum.par_chunks_mut(task))
                .zip(grad.par_chunks(task))
                .for_each(|((p, m), g)| update(p, m, g, factors, scale));
            Ok(())
        })
    })
}
