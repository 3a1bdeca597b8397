//! Clipping on a GPU: one launch for all tensors, which computes the factors too.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{Result, Tensor};

use super::MaxNorm;
use crate::gpu::table::{Table, address};
use crate::gpu::{Arg, Kernel};

/// See [`super::clip_norm()`]; all operands have been checked, and there is at least one tensor.
pub(super) fn clip_norm(all: &[&Tensor], squares: &Tensor, max_norm: MaxNorm) -> Result<()> {
    let squares = squares.contiguous()?;
    let mut table = Table::default();
    for xs in all {
        let values = xs.elem_count();
        table.push(&[address(xs)?, values as i64], values);
    }
    let (each, max_norm) = match max_norm {
        MaxNorm::Joint(max_norm) => (false, max_norm),
        MaxNorm::Each(max_norm) => (true, max_norm),
    };
    let more = vec![
        Arg::Read(&squares),
        Arg::Count(all.len()),
        Arg::Count(each.into()),
        Arg::Double(max_norm),
    ];
    let table = table.place(squares.device())?;
    let kernel = Kernel::new("clip_norm", "clip_norm_tensors");
    // SAFETY: the words follow `clip_norm::Tensor`; the tensors live until here, and there is one sum per tensor.
    unsafe { table.launch(&kernel, more) }
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{MaxNorm, clip_norm};
    use crate::sums_of_squares;
    use crate::testing::{gpu, random};
    use candle_core::{Device, Tensor};

    /// Clips some tensors on a device. One is a slice of a longer tensor; its neighbouring values are returned too.
    fn clipped(device: &Device, max_norm: MaxNorm) -> Vec<Vec<f32>> {
        let shapes: [&[usize]; 4] = [&[1], &[3, 5], &[8192], &[90, 200]];
        let there = |seed, shape: &[usize]| random(seed, shape).to_device(device).unwrap();
        let mut all: Vec<Tensor> = (0..)
            .zip(shapes)
            .map(|(s, shape)| there(s, shape))
            .collect();
        // This slice is not aligned.
        let whole = there(9, &[60]);
        all.push(whole.narrow(0, 3, 50).unwrap());
        let some: Vec<&Tensor> = all.iter().collect();
        let squares = sums_of_squares(&some).unwrap();
        let before = crate::launches();
        clip_norm(&some, &squares, max_norm).unwrap();
        let launches = crate::launches() - before;
        assert_eq!(launches, usize::from(device.is_cuda()));
        all.push(whole);
        let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1().unwrap();
        all.iter().map(values).collect()
    }

    #[test]
    fn one_launch_matches_single_calls_on_the_cpu() {
        for max_norm in [MaxNorm::Joint(0.7), MaxNorm::Joint(1e9), MaxNorm::Each(3.)] {
            let (want, got) = (clipped(&Device::Cpu, max_norm), clipped(gpu(), max_norm));
            for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
                assert!((got - want).abs() <= 1e-6 * want.abs(), "{got}, {want}");
            }
        }
    }
}
