//! A linear layer followed by GELU, as one operation.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use super::cpu_slices::{floats, is_f32_on_cpu, operand};
use super::gelu::{self, gelu};
use super::gpu::is_supported;
use super::linear::{self, Linear, linear};
use crate::Result;

/// `gelu(xs weightᵀ + bias)`; shapes and errors as in [`linear()`].
///
/// The input of the GELU stays inside the op, so its gradient does not pass through candle's store.
///
/// # Errors
///
/// As [`linear()`].
pub fn linear_gelu(xs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let fits = matches!(*weight.dims(), [outputs, inputs] if outputs > 0 && inputs > 0
        && xs.dims().last() == Some(&inputs) && bias.dims() == [outputs]);
    if fits && is_supported(&[xs, weight, bias]) {
        return Ok(linear::gpu::linear_gelu(xs, weight, bias)?);
    }
    if !fits || !is_f32_on_cpu(&[xs, weight, bias]) {
        return gelu(&linear(xs, weight, Some(bias))?);
    }
    let (xs, weight, bias) = (xs.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    Ok(xs.apply_op3(&weight, &bias, LinearGelu::default())?)
}

/// Holds the input of the GELU from the forward to the backward pass.
#[derive(Default)]
struct LinearGelu {
    before: OnceLock<Vec<f32>>,
}

impl CustomOp3 for LinearGelu {
    fn name(&self) -> &'static str {
        "linear_gelu"
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
        let _timer = Linear::timer("linear_gelu", xs_l.dims(), weight_l.dims(), 0);
        let bias = operand(bias, bias_l)?;
        let (before, shape) = Linear::forward((xs, xs_l), (weight, weight_l), Some(bias))?;
        let after = gelu::cpu::forward(&before);
        // An op value runs once, so the cell is empty.
        let _ = self.before.set(before);
        Ok((CpuStorage::F32(after), shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(before) = self.before.get() else {
            candle_core::bail!("linear_gelu: backward without forward")
        };
        let products = usize::from(xs.track_op()) + usize::from(weight.track_op());
        let _timer = Linear::timer("linear_gelu", xs.dims(), weight.dims(), products.max(1));
        let grad = grad.contiguous()?;
        let grad = gelu::cpu::backward(before, floats(&grad)?.to_vec());
        Linear::backward_all((xs, weight, bias), &grad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_repeats, random};

    #[test]
    fn follows_its_two_parts() {
        for (shape, outputs) in [(&[3][..], 1), (&[3, 5, 33], 17), (&[2, 50, 96], 200)] {
            let inputs = shape[shape.len() - 1];
            let operands = [
                random(1, shape),
                random(2, &[outputs, inputs]),
                random(3, &[outputs]),
            ];
            check(
                &operands,
                1e-6,
                |t| linear_gelu(&t[0], &t[1], &t[2]),
                |t| gelu(&linear(&t[0], &t[1], Some(&t[2]))?),
            );
        }
    }

    #[test]
    fn refuses_mismatched_shapes_and_repeats_bit_for_bit() {
        let operands = [random(1, &[30, 20]), random(2, &[25, 20]), random(3, &[25])];
        check_repeats(&operands, |t| linear_gelu(&t[0], &t[1], &t[2]));
        assert!(linear_gelu(&operands[0], &operands[2], &operands[2]).is_err());
        assert!(linear_gelu(&operands[0], &operands[1], &random(4, &[3])).is_err());
    }
}
