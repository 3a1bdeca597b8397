//! LARS on a GPU: one launch for the norms of all parameters, one for the updates.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Result, Tensor};

use super::LarsParam;
use super::cpu::Factors;
use crate::gpu::table::{Table, address, pair};
use crate::gpu::{Arg, Buffer, Kernel};

/// See [`super::lars_steps`]; all operands have been checked, and there is at least one.
pub(super) fn lars_steps(all: &[LarsParam<'_>]) -> Result<()> {
    let gradients = all.iter().map(|moving| moving.grad.contiguous());
    let gradients: Vec<Tensor> = gradients.collect::<Result<_>>()?;
    let device = all[0].param.device();
    let mut table = Table::default();
    for (moving, gradient) in all.iter().zip(&gradients) {
        let f = Factors::new(&moving.step);
        let values = moving.param.elem_count();
        // The first chunk of this tensor; the sums of squares of its chunks are its own.
        let first = table.chunks() as i64;
        let words = [
            address(moving.param)?,
            address(gradient)?,
            address(moving.momentum)?,
            values as i64,
            first,
            pair(f.lr, f.momentum),
            pair(f.decay, f.trust),
        ];
        table.push(&words, values);
    }
    let mut partials = Buffer::new((table.chunks(), 2), DType::F64, device)?;
    let table = table.place(device)?;
    let kernel = Kernel::new("lars", "lars_norms");
    // SAFETY: the words follow `lars::Tensor`, and there are two sums for each chunk.
    unsafe { table.launch(&kernel, vec![Arg::Write(&mut partials)])? };
    let partials = partials.into_tensor();
    let kernel = Kernel::new("lars", "lars_tensors");
    // SAFETY: the words follow `lars::Tensor`; the tensors of an entry have one shape and live until here.
    unsafe { table.launch(&kernel, vec![Arg::Read(&partials)]) }
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{LarsParam, LarsStep, lars_steps};
    use crate::testing::{gpu, random};
    use candle_core::{Device, Tensor};

    fn moved(device: &Device) -> Vec<Vec<f32>> {
        let shapes: [&[usize]; 4] = [&[1], &[3, 5], &[8192], &[90, 200]];
        let at = |seed, shape: &[usize]| random(seed, shape).to_device(device).unwrap();
        let of = |(seed, shape): (u64, &&[usize])| [0, 10, 20].map(|more| at(seed + more, shape));
        let state: Vec<[Tensor; 3]> = (0..).zip(&shapes).map(of).collect();
        let all: Vec<LarsParam<'_>> = state
            .iter()
            .enumerate()
            .map(|(place, [param, grad, momentum])| LarsParam {
                param,
                grad,
                momentum,
                step: LarsStep {
                    lr: 0.5,
                    momentum: 0.9,
                    weight_decay: 0.05 * place as f64,
                    trust: (place != 1).then_some(0.01),
                },
            })
            .collect();
        lars_steps(&all).unwrap();
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1().unwrap();
        state.iter().flatten().map(values).collect()
    }

    #[test]
    fn one_launch_matches_single_steps_on_the_cpu() {
        let want = moved(&Device::Cpu);
        let device = gpu();
        let before = crate::launches();
        let got = moved(device);
        assert_eq!(crate::launches(), before + 2);
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert!((got - want).abs() < 1e-6, "{got} against {want}");
        }
    }
}
