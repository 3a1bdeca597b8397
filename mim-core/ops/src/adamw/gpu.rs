//! AdamW on a GPU: one launch for all parameters.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{Result, Tensor};

use super::AdamWParam;
use super::cpu::Factors;
use crate::gpu::Kernel;
use crate::gpu::table::{Table, address, pair};

/// See [`super::adamw_steps`]; all operands have been checked, and there is at least one.
pub(super) fn adamw_steps(all: &[AdamWParam<'_>]) -> Result<()> {
    let gradients = all.iter().map(|moving| moving.grad.contiguous());
    let gradients: Vec<Tensor> = gradients.collect::<Result<_>>()?;
    let mut table = Table::default();
    for (moving, gradient) in all.iter().zip(&gradients) {
        let f = Factors::new(&moving.step);
        let values = moving.param.elem_count();
        let words = [
            address(moving.param)?,
            address(gradient)?,
            address(moving.exp_avg)?,
            address(moving.exp_avg_sq)?,
            values as i64,
            pair(f.keep, f.beta1),
            pair(f.fresh1, f.beta2),
            pair(f.fresh2, f.root),
            pair(f.eps, f.rate),
        ];
        table.push(&words, values);
    }
    let table = table.place(all[0].param.device())?;
    let kernel = Kernel::new("adamw", "adamw_tensors");
    // SAFETY: the words follow `adamw::Tensor`; the tensors of an entry have one shape and live until here.
    unsafe { table.launch(&kernel, Vec::new()) }
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{AdamWParam, AdamWStep, adamw_step, adamw_steps};
    use crate::testing::{gpu, random};
    use candle_core::{Device, Tensor};

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn one_launch_matches_single_steps_on_the_cpu() {
        let shapes: [&[usize]; 4] = [&[1], &[3, 5], &[8192], &[90, 200]];
        let state = |device: &Device| -> Vec<[Tensor; 4]> {
            let at = |seed, shape: &[usize]| random(seed, shape).to_device(device).unwrap();
            let of = |(seed, shape): (u64, &&[usize])| {
                let square = at(seed + 30, shape).sqr().unwrap();
                [
                    at(seed, shape),
                    at(seed + 10, shape),
                    at(seed + 20, shape),
                    square,
                ]
            };
            (0..).zip(&shapes).map(of).collect()
        };
        let step = |place: usize| AdamWStep {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.05 * place as f64,
            step: 1 + place,
        };
        let want = state(&Device::Cpu);
        for (place, [param, grad, mean, square]) in want.iter().enumerate() {
            adamw_step(param, grad, mean, square, &step(place)).unwrap();
        }
        let device = gpu();
        let got = state(device);
        let places = got.iter().enumerate();
        let all: Vec<AdamWParam<'_>> = places.map(|(place, t)| step(place).of(t)).collect();
        let before = crate::launches();
        adamw_steps(&all).unwrap();
        assert_eq!(crate::launches(), before + 1);
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert_eq!(values(got), values(want));
        }
    }

    impl AdamWStep {
        fn of(self, [param, grad, exp_avg, exp_avg_sq]: &[Tensor; 4]) -> AdamWParam<'_> {
            AdamWParam {
                param,
                grad,
                exp_avg,
                exp_avg_sq,
                step: self,
            }
        }
    }
}
