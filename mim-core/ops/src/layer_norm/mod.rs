//! Layer normalisation over the last axis.

pub(super) mod cpu;
pub(super) mod gpu;
mod reference;

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, D, Layout, Shape, Tensor, bail};

use super::cpu_slices::{expect_shape, floats, is_f32_on_cpu, last_axis, operand};
use super::gpu::is_supported;
use super::grad_accumulator::accumulate_values_or_return;
use super::profile::{Pass, timer};
use crate::Result;

pub(super) use self::cpu::Moments;

/// `(x - mean) / √(var + eps) * weight + bias` over the last axis.
///
/// `xs` is `[..., dim]`, `weight` and `bias` are `[dim]`; the variance is biased.
/// Ba, Kiros and Hinton (arXiv:1607.06450). The f32 kernel stores mean and deviation of each row for
/// the backward pass.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) if the last axis is missing or empty, or weight or bias
/// do not match it.
pub fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = last_axis("layer_norm", xs)?;
    expect_shape("layer_norm", "weight", weight, &[width])?;
    expect_shape("layer_norm", "bias", bias, &[width])?;
    if is_supported(&[xs, weight, bias]) {
        return Ok(gpu::layer_norm(xs, [weight, bias], narrow(eps))?);
    }
    if is_f32_on_cpu(&[xs, weight, bias]) {
        let (weight, bias) = (weight.contiguous()?, bias.contiguous()?);
        return Ok(xs
            .contiguous()?
            .apply_op3(&weight, &bias, LayerNorm::new(eps))?);
    }
    reference::layer_norm(xs, weight, bias, eps)
}

/// `(x - mean) / √(var + eps)` over the last axis of `[..., dim]`: [`layer_norm()`] without weight
/// and bias.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) if the last axis is missing or empty.
pub fn normalize(xs: &Tensor, eps: f64) -> Result<Tensor> {
    last_axis("normalize", xs)?;
    if is_supported(&[xs]) {
        return Ok(gpu::normalize(xs, narrow(eps))?);
    }
    if is_f32_on_cpu(&[xs]) {
        return Ok(xs.contiguous()?.apply_op1(LayerNorm::new(eps))?);
    }
    reference::normalize(xs, eps)
}

struct LayerNorm {
    eps: f32,
    found: OnceLock<Vec<cpu::Moments>>,
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernels compute in f32"
)]
fn narrow(eps: f64) -> f32 {
    eps as f32
}

impl LayerNorm {
    fn new(eps: f64) -> Self {
        Self {
            eps: narrow(eps),
            found: OnceLock::new(),
        }
    }

    fn forward(&self, xs: &[f32], layout: &Layout, affine: cpu::Affine<'_>) -> (CpuStorage, Shape) {
        let width = layout.dims().last().copied().unwrap_or(1);
        let (ys, found) = cpu::forward(xs, width, affine, self.eps);
        // An op value runs once, so the cell is empty.
        let _ = self.found.set(found);
        (CpuStorage::F32(ys), layout.shape().clone())
    }

    fn found(&self) -> candle_core::Result<&[cpu::Moments]> {
        match self.found.get() {
            Some(found) => Ok(found),
            None => bail!("layer_norm: backward without forward"),
        }
    }
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer("layer_norm", Pass::Forward, l.dims(), 0.);
        Ok(self.forward(operand(xs, l)?, l, None))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let _timer = timer("layer_norm", Pass::Backward, xs.dims(), 0.);
        let grad = grad.contiguous()?;
        let width = xs.dim(D::Minus1)?;
        let grad = floats(&grad)?.to_vec();
        let dx = cpu::backward(&floats(xs)?, self.found()?, None, grad, width);
        Ok(Some(Tensor::from_vec(dx, xs.shape(), xs.device())?))
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_l: &Layout,
        weight: &CpuStorage,
        weight_l: &Layout,
        bias: &CpuStorage,
        bias_l: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer("layer_norm", Pass::Forward, xs_l.dims(), 0.);
        let affine = (operand(weight, weight_l)?, operand(bias, bias_l)?);
        Ok(self.forward(operand(xs, xs_l)?, xs_l, Some(affine)))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let _timer = timer("layer_norm", Pass::Backward, xs.dims(), 0.);
        let grad = grad.contiguous()?;
        let (values, scale, grad) = (floats(xs)?, floats(weight)?, floats(&grad)?);
        let (width, found, device) = (scale.len(), self.found()?, xs.device());
        let mut grads = (None, None, None);
        if xs.track_op() {
            let dx = cpu::backward(&values, found, Some(&scale), grad.to_vec(), width);
            grads.0 = Some(Tensor::from_vec(dx, xs.shape(), device)?);
        }
        if weight.track_op() || bias.track_op() {
            let (dw, db) = cpu::backward_affine(&values, found, &grad, width);
            grads.1 = accumulate_values_or_return(weight, dw)?;
            grads.2 = accumulate_values_or_return(bias, db)?;
        }
        Ok(grads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_repeats, random};
    use candle_core::Device;

    #[test]
    fn known_values() {
        let xs = Tensor::new(&[[1f32, 3.], [2., 2.]], &Device::Cpu).unwrap();
        let weight = Tensor::new(&[2f32, 3.], &Device::Cpu).unwrap();
        let bias = Tensor::new(&[0.5f32, 0.], &Device::Cpu).unwrap();
        let ys = layer_norm(&xs, &weight, &bias, 0.0625).unwrap();
        // Row 1: ±1 / √1.0625; row 2 has zero variance.
        let unit = 1.0625f32.sqrt().recip();
        let want = [[0.5 - 2. * unit, 3. * unit], [0.5, 0.]];
        for (y, want) in ys
            .to_vec2::<f32>()
            .unwrap()
            .concat()
            .iter()
            .zip(want.concat())
        {
            assert!((y - want).abs() < 1e-6, "{y} against {want}");
        }
    }

    #[test]
    fn follows_the_reference() {
        for shape in [&[7][..], &[1, 1, 5], &[3, 5, 33], &[2, 197, 768]] {
            let width = shape[shape.len() - 1];
            let inputs = [random(1, shape), random(2, &[width]), random(3, &[width])];
            check(
                &inputs,
                5e-6,
                |t| layer_norm(&t[0], &t[1], &t[2], 1e-6),
                |t| reference::layer_norm(&t[0], &t[1], &t[2], 1e-6),
            );
            check(
                &inputs[..1],
                5e-6,
                |t| normalize(&t[0], 1e-6),
                |t| reference::normalize(&t[0], 1e-6),
            );
        }
    }

    #[test]
    fn takes_strided_input() {
        let inputs = [random(1, &[6, 4, 3]), random(2, &[6]), random(3, &[6])];
        check(
            &inputs,
            5e-6,
            |t| layer_norm(&t[0].transpose(0, 2)?, &t[1], &t[2], 1e-5),
            |t| reference::layer_norm(&t[0].transpose(0, 2)?, &t[1], &t[2], 1e-5),
        );
    }

    #[test]
    fn refuses_wrong_weights() {
        let (xs, w) = (random(1, &[2, 4]), random(2, &[3]));
        let message = layer_norm(&xs, &w, &w, 1e-6).unwrap_err().to_string();
        assert!(
            message.contains("layer_norm weight: expected [4], got [3]"),
            "{message}"
        );
    }

    #[test]
    fn repeats_bit_for_bit() {
        let inputs = [random(1, &[500, 384]), random(2, &[384]), random(3, &[384])];
        check_repeats(&inputs, |t| layer_norm(&t[0], &t[1], &t[2], 1e-6));
    }
}
