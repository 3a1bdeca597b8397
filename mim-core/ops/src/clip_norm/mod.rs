//! Scales tensors down where their norm is too large, for gradient clipping.

mod cpu;
mod gpu;
mod reference;

use candle_core::{Device, Tensor};

use super::cpu_slices::{change, check_in_place, expect_shape, is_f32_on_cpu};
use super::gpu::is_supported;
use super::profile::{Pass, timer};
use crate::Result;

/// The norm to bound, and its bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxNorm {
    /// The norm of all tensors taken as one vector.
    Joint(f64),
    /// The norm of each tensor on its own.
    Each(f64),
}

/// `x ← x min(1, max_norm / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_`. On a GPU this is one launch, without a
/// copy to the host.
///
/// `squares` is `[tensors]` f64, as [`sums_of_squares`](super::sums_of_squares) returns it. If a norm is NaN,
/// nothing is scaled by it.
///
/// # Errors
///
/// [`Error::Unsupported`](crate::Error::Unsupported) if a tensor is not contiguous, [`Error::Shape`](crate::Error::Shape)
/// if `squares` does not hold one sum per tensor. Both are checked before anything is scaled.
pub fn clip_norm(all: &[&Tensor], squares: &Tensor, max_norm: MaxNorm) -> Result<()> {
    expect_shape("clip_norm", "squares", squares, &[all.len()])?;
    for xs in all {
        check_in_place("clip_norm", &[xs], &[])?;
    }
    if all.is_empty() {
        return Ok(());
    }
    let _timer = timer("clip_norm", Pass::Update, &[], 0.);
    if squares.device().is_cuda() && is_supported(all) {
        return Ok(gpu::clip_norm(all, squares, max_norm)?);
    }
    let squares: Vec<f64> = squares.to_device(&Device::Cpu)?.to_vec1()?;
    let joint = squares.iter().sum::<f64>();
    // One tensor at a time, since views of one storage share its lock; each uses all threads.
    for (xs, own) in all.iter().zip(&squares) {
        let (square, max_norm) = match max_norm {
            MaxNorm::Joint(max_norm) => (joint, max_norm),
            MaxNorm::Each(max_norm) => (*own, max_norm),
        };
        let factor = max_norm / (square.sqrt() + 1e-6);
        if factor < 1. {
            scale(xs, factor)?;
        }
    }
    Ok(())
}

fn scale(xs: &Tensor, factor: f64) -> Result<()> {
    if !is_f32_on_cpu(&[xs]) {
        return reference::scale(xs, factor);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernels compute in f32"
    )]
    let factor = factor as f32;
    Ok(change(xs, |xs| {
        cpu::scale(xs, factor);
        Ok(())
    })?)
}

#[cfg(test)]
mod tests {
    use super::super::sums_of_squares;
    use super::*;
    use crate::testing::random;
    use candle_core::DType;

    fn clipped(values: [&[f32]; 2], dtype: DType, max_norm: MaxNorm) -> Vec<Vec<f32>> {
        let of = |xs: &[f32]| Tensor::new(xs, &Device::Cpu).unwrap().to_dtype(dtype);
        let all = values.map(|xs| of(xs).unwrap());
        let all: Vec<&Tensor> = all.iter().collect();
        clip_norm(&all, &sums_of_squares(&all).unwrap(), max_norm).unwrap();
        let back = |xs: &&Tensor| xs.to_dtype(DType::F32).unwrap().to_vec1().unwrap();
        all.iter().map(back).collect()
    }

    #[test]
    fn known_values_also_in_half_precision() {
        let all: [&[f32]; 2] = [&[6., 0., -8.], &[0.]];
        for dtype in [DType::F32, DType::BF16] {
            for (max_norm, want) in [(20., [6., 0., -8.]), (5., [3., 0., -4.])] {
                let found = clipped(all, dtype, MaxNorm::Joint(max_norm));
                for (found, want) in found[0].iter().zip(want) {
                    assert!((found - want).abs() < 1e-5, "{found} against {want}");
                }
            }
        }
    }

    #[test]
    fn joint_or_per_tensor_and_nan_scales_nothing() {
        let joint = clipped([&[3.], &[4.]], DType::F32, MaxNorm::Joint(2.5)).concat();
        let each = clipped([&[3.], &[4.]], DType::F32, MaxNorm::Each(3.5)).concat();
        for (found, want) in [joint, each].concat().iter().zip([1.5, 2., 3., 3.5]) {
            assert!((found - want).abs() < 1e-5, "{found} against {want}");
        }
        let found = clipped([&[f32::NAN], &[4.]], DType::F32, MaxNorm::Joint(1.));
        assert!(found[0][0].is_nan() && found[1] == [4.]);
    }

    #[test]
    fn follows_the_reference_and_refuses_wrong_operands() {
        let (fast, slow) = (random(1, &[33, 1000]), random(1, &[33, 1000]));
        scale(&fast, 0.3).unwrap();
        reference::scale(&slow, 0.3).unwrap();
        let values = |xs: &Tensor| xs.to_vec2::<f32>().unwrap();
        assert_eq!(values(&fast), values(&slow));
        let squares = Tensor::new(&[1f64], &Device::Cpu).unwrap();
        let bound = MaxNorm::Joint(0.1);
        assert!(clip_norm(&[&fast.t().unwrap()], &squares, bound).is_err());
        assert!(clip_norm(&[&fast, &slow], &squares, bound).is_err());
        assert_eq!(values(&fast), values(&slow));
    }
}
