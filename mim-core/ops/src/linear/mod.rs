//! The linear layer with its bias as one operation.

mod cpu;
pub(super) mod gpu;
mod reference;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use self::cpu::Sizes;
use super::cpu_slices::{expect_shape, floats, is_f32_on_cpu, last_axis, operand};
use super::gpu::is_supported;
use super::grad_accumulator::{accumulate, accumulate_values_or_return};
use super::profile::{Pass, Timer, timer};
use crate::{Error, Result};

/// `xs weightᵀ + bias`.
///
/// `xs` is `[..., inputs]`, `weight` is `[outputs, inputs]` as in PyTorch, `bias` is `[outputs]`;
/// the result is `[..., outputs]`. The backward pass skips arguments that track no gradient,
/// such as images.
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not match or an axis is empty.
pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let inputs = last_axis("linear", xs)?;
    let outputs = match *weight.dims() {
        [outputs, width] if outputs > 0 && width == inputs => outputs,
        _ => {
            return Err(Error::shape(
                "linear weight",
                format!("[outputs, {inputs}]"),
                weight.dims(),
                "give [outputs, inputs], with as many inputs as the last axis of the input",
            ));
        }
    };
    if let Some(bias) = bias {
        expect_shape("linear", "bias", bias, &[outputs])?;
    }
    let mut operands = vec![xs, weight];
    operands.extend(bias);
    if is_supported(&operands) {
        return Ok(gpu::linear(xs, weight, bias)?);
    }
    if !is_f32_on_cpu(&operands) {
        return reference::linear(xs, weight, bias);
    }
    let (xs, weight) = (xs.contiguous()?, weight.contiguous()?);
    Ok(match bias {
        Some(bias) => xs.apply_op3(&weight, &bias.contiguous()?, Linear)?,
        None => xs.apply_op2(&weight, Linear)?,
    })
}

/// The layer as a candle op; other ops reuse its parts.
pub(super) struct Linear;

impl Linear {
    fn sizes(xs: &[usize], weight: &[usize]) -> Sizes {
        let inputs = weight.last().copied().unwrap_or(1);
        Sizes {
            rows: xs.iter().product::<usize>() / inputs,
            inputs,
            outputs: weight.first().copied().unwrap_or(1),
        }
    }

    /// A timer of one pass; a backward pass has one product for each gradient of input and weight.
    pub(super) fn timer(
        op: &'static str,
        xs: &[usize],
        weight: &[usize],
        products: usize,
    ) -> Timer {
        let sizes = Self::sizes(xs, weight);
        let flop = 2. * (sizes.rows * sizes.inputs * sizes.outputs) as f64;
        match products {
            0 => timer(op, Pass::Forward, xs, flop),
            _ => timer(op, Pass::Backward, xs, products as f64 * flop),
        }
    }

    pub(super) fn forward(
        xs: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> candle_core::Result<(Vec<f32>, Shape)> {
        let sizes = Self::sizes(xs.1.dims(), weight.1.dims());
        let ys = cpu::forward(
            operand(xs.0, xs.1)?,
            operand(weight.0, weight.1)?,
            bias,
            sizes,
        )?;
        let mut dims = xs.1.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = sizes.outputs;
        }
        Ok((ys, dims.into()))
    }

    /// Gradients of input and weight, each only if it is tracked.
    fn backward(
        xs: &Tensor,
        weight: &Tensor,
        grad: &[f32],
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let mut grads = (None, None);
        if xs.track_op() {
            let dx = Self::input_gradient(weight, grad)?;
            grads.0 = Some(Tensor::from_vec(dx, xs.shape(), xs.device())?);
        }
        grads.1 = Self::weight_gradient(weight, &floats(xs)?, grad)?;
        Ok(grads)
    }

    /// `xs weightᵀ + bias` for rows as wide as the inputs of the weight.
    pub(super) fn values(
        xs: &[f32],
        weight: &Tensor,
        bias: &[f32],
    ) -> candle_core::Result<Vec<f32>> {
        let sizes = Self::sizes(&[xs.len()], weight.dims());
        cpu::forward(xs, &floats(weight)?, Some(bias), sizes)
    }

    /// [`Linear::values`] with `more` added.
    pub(super) fn values_added(
        xs: &[f32],
        weight: &Tensor,
        bias: &[f32],
        more: &[f32],
    ) -> candle_core::Result<Vec<f32>> {
        let sizes = Self::sizes(&[xs.len()], weight.dims());
        cpu::forward_added(xs, &floats(weight)?, (bias, more), sizes)
    }

    /// The gradient of the input: `grad weight`.
    pub(super) fn input_gradient(weight: &Tensor, grad: &[f32]) -> candle_core::Result<Vec<f32>> {
        cpu::backward_input(grad, &floats(weight)?, Self::sizes_of(grad, weight))
    }

    /// The gradient of the weight; `None` if it tracks none or went to the gradient accumulator.
    pub(super) fn weight_gradient(
        weight: &Tensor,
        xs: &[f32],
        grad: &[f32],
    ) -> candle_core::Result<Option<Tensor>> {
        if !weight.track_op() {
            return Ok(None);
        }
        let sizes = Self::sizes_of(grad, weight);
        let collected = accumulate(weight, |sum| match sum {
            Some(sum) => cpu::add_backward_weight(sum, grad, xs, sizes),
            None => cpu::backward_weight(grad, xs, sizes),
        })?;
        if collected {
            return Ok(None);
        }
        let dw = cpu::backward_weight(grad, xs, sizes)?;
        Tensor::from_vec(dw, weight.shape(), weight.device()).map(Some)
    }

    /// The gradient of the bias; `None` if it tracks none or went to the gradient accumulator.
    pub(super) fn bias_gradient(
        bias: &Tensor,
        weight: &Tensor,
        grad: &[f32],
    ) -> candle_core::Result<Option<Tensor>> {
        if !bias.track_op() {
            return Ok(None);
        }
        accumulate_values_or_return(bias, cpu::backward_bias(grad, Self::sizes_of(grad, weight)))
    }

    /// Sizes from the gradient of the output.
    fn sizes_of(grad: &[f32], weight: &Tensor) -> Sizes {
        let outputs = weight.dims().first().copied().unwrap_or(1);
        Sizes {
            rows: grad.len() / outputs,
            inputs: weight.dims().last().copied().unwrap_or(1),
            outputs,
        }
    }

    /// Gradients of input, weight and bias, each only if it is tracked.
    pub(super) fn backward_all(
        (xs, weight, bias): (&Tensor, &Tensor, &Tensor),
        grad: &[f32],
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = Self::backward(xs, weight, grad)?;
        Ok((dx, dw, Self::bias_gradient(bias, weight, grad)?))
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_l: &Layout,
        weight: &CpuStorage,
        weight_l: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = Self::timer("linear", xs_l.dims(), weight_l.dims(), 0);
        let (ys, shape) = Self::forward((xs, xs_l), (weight, weight_l), None)?;
        Ok((CpuStorage::F32(ys), shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let products = usize::from(xs.track_op()) + usize::from(weight.track_op());
        let _timer = Self::timer("linear", xs.dims(), weight.dims(), products.max(1));
        let grad = grad.contiguous()?;
        Self::backward(xs, weight, &floats(&grad)?)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let _timer = Self::timer("linear", xs_l.dims(), weight_l.dims(), 0);
        let bias = operand(bias, bias_l)?;
        let (ys, shape) = Self::forward((xs, xs_l), (weight, weight_l), Some(bias))?;
        Ok((CpuStorage::F32(ys), shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let products = usize::from(xs.track_op()) + usize::from(weight.track_op());
        let _timer = Self::timer("linear", xs.dims(), weight.dims(), products.max(1));
        let grad = grad.contiguous()?;
        Self::backward_all((xs, weight, bias), &floats(&grad)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_repeats, random};
    use candle_core::{Device, Var};

    #[test]
    fn known_values() {
        let xs = Tensor::new(&[1f32, 2.], &Device::Cpu).unwrap();
        let weight = Tensor::new(&[[1f32, 0.], [3., 4.], [0., 1.]], &Device::Cpu).unwrap();
        let bias = Tensor::new(&[10f32, 20., 30.], &Device::Cpu).unwrap();
        let ys = linear(&xs, &weight, Some(&bias)).unwrap();
        assert_eq!(ys.to_vec1::<f32>().unwrap(), [11., 31., 32.]);
    }

    #[test]
    fn follows_the_reference() {
        for (shape, outputs) in [
            (&[3][..], 1),
            (&[1, 5], 7),
            (&[3, 5, 33], 17),
            (&[2, 50, 96], 200),
        ] {
            let inputs = shape[shape.len() - 1];
            let operands = [
                random(1, shape),
                random(2, &[outputs, inputs]),
                random(3, &[outputs]),
            ];
            check(
                &operands,
                5e-6,
                |t| linear(&t[0], &t[1], Some(&t[2])),
                |t| reference::linear(&t[0], &t[1], Some(&t[2])),
            );
            check(
                &operands[..2],
                5e-6,
                |t| linear(&t[0], &t[1], None),
                |t| reference::linear(&t[0], &t[1], None),
            );
        }
    }

    #[test]
    fn takes_strided_operands() {
        let operands = [random(1, &[6, 4, 3]), random(2, &[6, 5]), random(3, &[9])];
        check(
            &operands,
            5e-6,
            |t| {
                linear(
                    &t[0].transpose(0, 2)?,
                    &t[1].t()?,
                    Some(&t[2].narrow(0, 2, 5)?),
                )
            },
            |t| {
                reference::linear(
                    &t[0].transpose(0, 2)?,
                    &t[1].t()?,
                    Some(&t[2].narrow(0, 2, 5)?),
                )
            },
        );
    }

    #[test]
    fn constants_get_no_gradient() {
        let (xs, weight) = (
            random(1, &[2, 3]),
            Var::from_tensor(&random(2, &[4, 3])).unwrap(),
        );
        let ys = linear(&xs, &weight, Some(&random(3, &[4]))).unwrap();
        let grads = ys.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&weight).is_some() && grads.get(&xs).is_none());
    }

    #[test]
    fn refuses_mismatched_shapes() {
        let xs = random(1, &[2, 3]);
        assert!(linear(&xs, &random(2, &[3, 4]), None).is_err());
        assert!(linear(&xs, &random(2, &[4, 3]), Some(&random(3, &[3]))).is_err());
    }

    #[test]
    fn repeats_bit_for_bit() {
        let operands = [
            random(1, &[300, 200]),
            random(2, &[256, 200]),
            random(3, &[256]),
        ];
        check_repeats(&operands, |t| linear(&t[0], &t[1], Some(&t[2])));
    }
}
