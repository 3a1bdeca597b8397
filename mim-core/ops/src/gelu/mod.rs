//! The Gaussian error linear unit, exact form.

pub(super) mod cpu;
pub(super) mod gpu;
mod reference;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::cpu_slices::{floats, is_f32_on_cpu, operand};
use super::gpu::is_supported;
use super::profile::{Pass, timer};
use crate::Result;

/// `x Φ(x)` for any shape; Φ is the distribution function of the standard normal distribution.
///
/// `Φ(x) = (1 + erf(x / √2)) / 2`; the error of the f32 kernel's erf is below 2e-7. This is the
/// exact form of Hendrycks and Gimpel (arXiv:1606.08415) and the default of timm and PyTorch, not the tanh form.
///
/// # Errors
///
/// Fails only if the device does.
pub fn gelu(xs: &Tensor) -> Result<Tensor> {
    if is_supported(&[xs]) {
        return Ok(gpu::Unit::Gelu.apply(xs)?);
    }
    if is_f32_on_cpu(&[xs]) {
        return Ok(xs.contiguous()?.apply_op1(Gelu)?);
    }
    reference::gelu(xs)
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer("gelu", Pass::Forward, l.dims(), 0.);
        let ys = cpu::forward(operand(xs, l)?);
        Ok((CpuStorage::F32(ys), l.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let _timer = timer("gelu", Pass::Backward, xs.dims(), 0.);
        let grad = grad.contiguous()?;
        let dx = cpu::backward(&floats(xs)?, floats(&grad)?.to_vec());
        Ok(Some(Tensor::from_vec(dx, xs.shape(), xs.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_repeats, random};
    use candle_core::Device;

    #[test]
    fn known_values() {
        let xs = Tensor::new(&[-1f32, 0., 1., 3.], &Device::Cpu).unwrap();
        let ys = gelu(&xs).unwrap().to_vec1::<f32>().unwrap();
        for (y, want) in ys.iter().zip([-0.158_655_26, 0., 0.841_344_7, 2.995_950_3]) {
            assert!((y - want).abs() < 3e-7, "{y} against {want}");
        }
    }

    #[test]
    fn follows_the_reference() {
        for shape in [&[7][..], &[3, 5, 11], &[2, 17, 1000], &[0, 3]] {
            let xs = (random(1, shape) * 2.5).unwrap();
            if xs.elem_count() == 0 {
                assert_eq!(gelu(&xs).unwrap().dims(), shape);
                continue;
            }
            check(&[xs], 1e-6, |t| gelu(&t[0]), |t| reference::gelu(&t[0]));
        }
    }

    #[test]
    fn takes_strided_input() {
        let op = |t: &[Tensor]| gelu(&t[0].transpose(0, 1)?.narrow(0, 1, 2)?);
        let reference = |t: &[Tensor]| reference::gelu(&t[0].transpose(0, 1)?.narrow(0, 1, 2)?);
        check(&[random(2, &[5, 4])], 1e-6, op, reference);
    }

    #[test]
    fn repeats_bit_for_bit() {
        check_repeats(&[random(3, &[9, 8000])], |t| gelu(&t[0]));
    }
}
