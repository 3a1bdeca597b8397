//! Softmax over the last axis.

mod cpu;
mod gpu;
mod reference;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
pub(super) use cpu::{backward_rows, forward_rows};
pub(super) use reference::softmax as reference_softmax;

use super::cpu_slices::{floats, is_f32_on_cpu, last_axis, operand};
use super::gpu::is_supported;
use super::profile::{Pass, timer};
use crate::Result;

/// `e^x / Σ e^x` over the last axis of `[..., dim]`.
///
/// Entries of -inf get exactly 0; a row of nothing else is NaN, as in PyTorch.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) for a scalar or an empty last axis.
pub fn softmax(xs: &Tensor) -> Result<Tensor> {
    last_axis("softmax", xs)?;
    if is_supported(&[xs]) {
        return Ok(gpu::softmax(xs)?);
    }
    if is_f32_on_cpu(&[xs]) {
        return Ok(xs.contiguous()?.apply_op1(Softmax)?);
    }
    reference::softmax(xs)
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer("softmax", Pass::Forward, l.dims(), 0.);
        let width = l.dims().last().copied().unwrap_or(1);
        let ys = cpu::forward(operand(xs, l)?, width);
        Ok((CpuStorage::F32(ys), l.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let _timer = timer("softmax", Pass::Backward, xs.dims(), 0.);
        let grad = grad.contiguous()?;
        let dx = cpu::backward(
            &floats(ys)?,
            &floats(&grad)?,
            xs.dim(candle_core::D::Minus1)?,
        );
        Ok(Some(Tensor::from_vec(dx, xs.shape(), xs.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_repeats, random};
    use candle_core::Device;

    #[test]
    fn hidden_entries_get_exactly_zero() {
        let xs = Tensor::new(&[0f32, f32::NEG_INFINITY, 3f32.ln()], &Device::Cpu).unwrap();
        let ys = softmax(&xs).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(ys[1], 0.0);
        assert!((ys[0] - 0.25).abs() < 1e-7 && (ys[2] - 0.75).abs() < 1e-7);
    }

    #[test]
    fn nan_propagates() {
        let rows = [[0f32, f32::NAN], [f32::NEG_INFINITY, f32::NEG_INFINITY]];
        let ys = softmax(&Tensor::new(&rows, &Device::Cpu).unwrap()).unwrap();
        let ys = ys.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(ys.iter().all(|y| y.is_nan()), "{ys:?}");
    }

    #[test]
    fn follows_the_reference() {
        for shape in [&[1][..], &[5, 1], &[3, 7, 50], &[130, 197]] {
            let xs = (random(1, shape) * 4.0).unwrap();
            check(
                &[xs],
                2e-6,
                |t| softmax(&t[0]),
                |t| reference::softmax(&t[0]),
            );
        }
    }

    #[test]
    fn takes_strided_input_and_refuses_empty_rows() {
        let op = |t: &[Tensor]| softmax(&t[0].transpose(0, 1)?);
        let reference = |t: &[Tensor]| reference::softmax(&t[0].transpose(0, 1)?);
        check(&[random(2, &[9, 4])], 2e-6, op, reference);
        assert!(softmax(&random(0, &[3, 0])).is_err());
        assert!(softmax(&random(0, &[])).is_err());
    }

    #[test]
    fn repeats_bit_for_bit() {
        check_repeats(&[random(3, &[700, 99])], |t| softmax(&t[0]));
    }
}
