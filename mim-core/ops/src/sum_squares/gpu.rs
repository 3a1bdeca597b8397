//! Sums of squares on a GPU: two launches for all tensors, and no copy to the host.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Result, Tensor};

use crate::gpu::table::{Table, address};
use crate::gpu::{Arg, Buffer, Kernel};

/// See [`super::sums_of_squares`]; there is at least one tensor.
pub(super) fn sums_of_squares(all: &[&Tensor]) -> Result<Tensor> {
    let all: Vec<Tensor> = all.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    let mut table = Table::default();
    for tensor in &all {
        let values = tensor.elem_count();
        let first = table.chunks() as i64;
        table.push(&[address(tensor)?, values as i64, first], values);
    }
    let device = all[0].device();
    let mut partials = Buffer::new(table.chunks(), DType::F64, device)?;
    let table = table.place(device)?;
    let kernel = Kernel::new("sum_squares", "sum_squares_chunks");
    // SAFETY: the words follow `sum_squares::Tensor`, and there is a partial sum for each chunk.
    unsafe { table.launch(&kernel, vec![Arg::Write(&mut partials)])? };
    let partials = partials.into_tensor();
    let mut sums = Buffer::new(all.len(), DType::F64, device)?;
    let kernel = Kernel::new("sum_squares", "sum_squares_tensors");
    let more = vec![Arg::Read(&partials), Arg::Write(&mut sums)];
    // SAFETY: as above, and there is one sum per tensor.
    unsafe { table.launch_each(&kernel, more)? };
    Ok(sums.into_tensor())
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{sum_squares, sums_of_squares};
    use crate::testing::{gpu, random};
    use candle_core::Tensor;

    #[test]
    fn follows_the_cpu() {
        let shapes: [&[usize]; 4] = [&[1], &[3, 5], &[8192], &[90, 200]];
        let tensors = || (0..).zip(&shapes).map(|(seed, shape)| random(seed, shape));
        let want: Vec<f64> = tensors().map(|t| sum_squares(&t).unwrap()).collect();
        let device = gpu();
        let there: Vec<Tensor> = tensors().map(|t| t.to_device(device).unwrap()).collect();
        let got = sums_of_squares(&there.iter().collect::<Vec<_>>()).unwrap();
        for (got, want) in got.to_vec1::<f64>().unwrap().iter().zip(&want) {
            assert!((got - want).abs() < 1e-10 * want, "{got} against {want}");
        }
    }
}
