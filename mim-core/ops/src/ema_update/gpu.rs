//! Exponential moving averages on a GPU: one launch for all parameters.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{Result, Tensor};

use crate::gpu::Kernel;
use crate::gpu::table::{Table, address, pair};

/// See [`super::ema_updates`]; all operands have been checked, and there is at least one pair.
pub(super) fn ema_updates(pairs: &[(&Tensor, &Tensor)], [keep, rest]: [f32; 2]) -> Result<()> {
    let students = pairs.iter().map(|(_, student)| student.contiguous());
    let students: Vec<Tensor> = students.collect::<Result<_>>()?;
    let mut table = Table::default();
    for ((teacher, _), student) in pairs.iter().zip(&students) {
        let values = teacher.elem_count();
        let words = [
            address(teacher)?,
            address(student)?,
            values as i64,
            pair(keep, rest),
        ];
        table.push(&words, values);
    }
    let table = table.place(pairs[0].0.device())?;
    let kernel = Kernel::new("ema_update", "ema_update_tensors");
    // SAFETY: the words follow `ema_update::Tensor`; the tensors of a pair have one shape and live until here.
    unsafe { table.launch(&kernel, Vec::new()) }
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{ema_update, ema_updates};
    use crate::testing::{gpu, random};
    use candle_core::Tensor;

    #[test]
    fn one_launch_matches_single_updates_on_the_cpu() {
        let shapes: [&[usize]; 3] = [&[3], &[7, 5], &[100, 90]];
        let pairs = || -> Vec<(Tensor, Tensor)> {
            let of =
                |(seed, shape): (u64, &&[usize])| (random(seed, shape), random(seed + 9, shape));
            (0..).zip(&shapes).map(of).collect()
        };
        let want = pairs();
        for (teacher, student) in &want {
            ema_update(teacher, student, 0.996).unwrap();
        }
        let device = gpu();
        let there =
            |(t, s): (Tensor, Tensor)| (t.to_device(device).unwrap(), s.to_device(device).unwrap());
        let got: Vec<_> = pairs().into_iter().map(there).collect();
        let pairs: Vec<_> = got.iter().map(|(t, s)| (t, s)).collect();
        ema_updates(&pairs, 0.996).unwrap();
        for ((got, _), (want, _)) in got.iter().zip(&want) {
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(got), flat(want));
        }
    }
}
