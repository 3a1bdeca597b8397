//! The linear layer on a GPU; its products use the precision of the thread.

use candle_core::{DType, Device, Result, Tensor, TensorId};

use crate::gelu::gpu::Unit;
use crate::gpu::{Buffer, Factor, differentiable, product, rows};
use crate::grad_accumulator::{accumulate_or_return, tracked_id};
use crate::precision::{Precision, precision};

/// Dtype of the operands of matrix products on this thread.
pub(crate) fn compute_type() -> DType {
    match precision() {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    }
}

/// A weight `[outputs, inputs]` converted for products.
#[derive(Clone)]
pub(crate) struct Weight {
    /// In the dtype of the products.
    values: Tensor,
}

impl Weight {
    pub(crate) fn new(weight: &Tensor, dtype: DType) -> Result<Self> {
        let values = rows::cast(&weight.detach(), dtype)?;
        Ok(Self { values })
    }

    fn dims(&self) -> (usize, usize) {
        let dims = self.values.dims();
        (dims[0], dims[1])
    }

    fn device(&self) -> &Device {
        self.values.device()
    }

    /// `xs weightᵀ`, without a bias.
    pub(crate) fn apply(&self, xs: &Tensor, dtype: DType) -> Result<Tensor> {
        let (outputs, inputs) = self.dims();
        let shape = (xs.elem_count() / inputs, outputs);
        let mut ys = Buffer::new(shape, dtype, self.device())?;
        self.add_to(xs, &mut ys, false)?;
        Ok(ys.into_tensor())
    }

    /// `ys = xs weightᵀ`, or with `add` `ys += xs weightᵀ`.
    pub(crate) fn add_to(&self, xs: &Tensor, ys: &mut Buffer, add: bool) -> Result<()> {
        let (_, inputs) = self.dims();
        let xs = Factor::matrix(xs, inputs);
        product(xs, Factor::matrix(&self.values, inputs).t(), ys, add)
    }

    /// The gradient of the input, as `dtype`: `grad weight`.
    pub(crate) fn backward_input(&self, grad: &Tensor, dtype: DType) -> Result<Tensor> {
        let (outputs, inputs) = self.dims();
        let grad = Factor::matrix(grad, outputs);
        let weight = Factor::matrix(&self.values, inputs);
        let mut dx = Buffer::new((grad.height(), inputs), dtype, self.device())?;
        product(grad, weight, &mut dx, false)?;
        Ok(dx.into_tensor())
    }

    /// The gradient of the weight in f32: `gradᵀ xs`.
    pub(crate) fn backward_weight(&self, xs: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let (outputs, inputs) = self.dims();
        let (grad, xs) = (Factor::matrix(grad, outputs), Factor::matrix(xs, inputs));
        let mut dw = Buffer::new((outputs, inputs), DType::F32, self.device())?;
        product(grad.t(), xs, &mut dw, false)?;
        Ok(dw.into_tensor())
    }
}

/// Input, weight and bias of a linear layer, as the backward pass needs them.
struct Layer {
    xs: Tensor,
    weight: Weight,
    bias: Option<Tensor>,
    dtype: DType,
    /// Whether the input tracks gradients.
    tracked: bool,
    /// Ids of weight and bias, if they track gradients.
    tracked_id: [Option<TensorId>; 2],
}

impl Layer {
    /// Operands must be contiguous.
    fn new(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let dtype = compute_type();
        Ok(Self {
            xs: xs.detach(),
            weight: Weight::new(weight, dtype)?,
            bias: bias.map(Tensor::detach),
            dtype,
            tracked: xs.track_op(),
            tracked_id: [tracked_id(weight), bias.and_then(tracked_id)],
        })
    }

    /// The shape of the result.
    fn shape(&self) -> Vec<usize> {
        let mut dims = self.xs.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.weight.dims().0;
        }
        dims
    }

    fn forward(&self) -> Result<Buffer> {
        let (outputs, inputs) = self.weight.dims();
        let rows = self.xs.elem_count() / inputs;
        let mut ys = match &self.bias {
            Some(bias) => rows::start_rows(bias, None, rows)?,
            None => Buffer::new((rows, outputs), DType::F32, self.xs.device())?,
        };
        let xs = rows::cast(&self.xs, self.dtype)?;
        self.weight.add_to(&xs, &mut ys, self.bias.is_some())?;
        Ok(ys.reshaped(self.shape()))
    }

    /// Gradients of input, weight and bias from the gradient of the output; `None` for those that went to the
    /// gradient accumulator.
    fn backward(&self, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let mut found = [None, None, None];
        let [weight, bias] = self.tracked_id;
        if let Some(bias) = bias {
            found[2] = accumulate_or_return(bias, rows::column_sums(grad, self.weight.dims().0)?)?;
        }
        if !self.tracked && weight.is_none() {
            return Ok(found);
        }
        let grad = rows::cast(grad, self.dtype)?;
        if self.tracked {
            let dx = self.weight.backward_input(&grad, DType::F32)?;
            found[0] = Some(dx.reshape(self.xs.shape())?);
        }
        if let Some(weight) = weight {
            let xs = rows::cast(&self.xs, self.dtype)?;
            found[1] = accumulate_or_return(weight, self.weight.backward_weight(&xs, &grad)?)?;
        }
        Ok(found)
    }
}

/// See [`super::linear()`].
pub(super) fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (xs, weight) = (xs.contiguous()?, weight.contiguous()?);
    let Some(bias) = bias else {
        let layer = Layer::new(&xs, &weight, None)?;
        return differentiable([&xs, &weight], layer.forward()?, move |_, grad| {
            let [dx, dw, _] = layer.backward(grad)?;
            Ok([dx, dw])
        });
    };
    let bias = bias.contiguous()?;
    let layer = Layer::new(&xs, &weight, Some(&bias))?;
    differentiable([&xs, &weight, &bias], layer.forward()?, move |_, grad| {
        layer.backward(grad)
    })
}

/// See [`linear_gelu()`](crate::linear_gelu()).
pub(crate) fn linear_gelu(xs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (xs, weight, bias) = (xs.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let layer = Layer::new(&xs, &weight, Some(&bias))?;
    let values = rows::cast(&layer.xs, layer.dtype)?;
    let before = layer.weight.apply(&values, layer.dtype)?;
    drop(values);
    let ys = Unit::Gelu.forward(&before, layer.bias.as_ref(), DType::F32)?;
    let ys = ys.reshaped(layer.shape());
    differentiable([&xs, &weight, &bias], ys, move |_, grad| {
        let bias = layer.bias.as_ref();
        layer.backward(&Unit::Gelu.backward(&before, bias, grad, false)?.0)
    })
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{linear, reference};
    use crate::Result;
    use crate::testing::{check_on_gpu, random};
    use crate::{Precision, gelu, linear_gelu, with_precision};
    use candle_core::Tensor;

    /// Operands, and the tolerance of their bf16 products.
    fn cases() -> impl Iterator<Item = [Tensor; 3]> {
        let shapes = [
            (&[3][..], 1),
            (&[1, 5], 7),
            (&[3, 5, 33], 17),
            (&[2, 70, 24], 40),
        ];
        shapes.into_iter().map(|(shape, outputs)| {
            let inputs = shape[shape.len() - 1];
            let scale = (inputs as f64).sqrt().recip();
            [
                random(1, shape),
                (random(2, &[outputs, inputs]) * scale).unwrap(),
                random(3, &[outputs]),
            ]
        })
    }

    fn check(
        inputs: &[Tensor],
        op: impl Fn(&[Tensor]) -> Result<Tensor>,
        reference: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) {
        check_on_gpu(inputs, 5e-6, &op, &reference);
        let half = |t: &[Tensor]| with_precision(Precision::Bf16, || op(t));
        check_on_gpu(inputs, 0.02, half, &reference);
    }

    #[test]
    fn follows_the_reference() {
        for operands in cases() {
            check(
                &operands,
                |t| linear(&t[0], &t[1], Some(&t[2])),
                |t| reference::linear(&t[0], &t[1], Some(&t[2])),
            );
            check(
                &operands[..2],
                |t| linear(&t[0], &t[1], None),
                |t| reference::linear(&t[0], &t[1], None),
            );
        }
    }

    #[test]
    fn with_gelu_it_follows_its_two_parts() {
        for operands in cases() {
            check(
                &operands,
                |t| linear_gelu(&t[0], &t[1], &t[2]),
                |t| gelu(&reference::linear(&t[0], &t[1], Some(&t[2]))?),
            );
        }
    }

    #[test]
    fn takes_strided_operands() {
        let operands = [random(1, &[6, 4, 3]), random(2, &[6, 5]), random(3, &[9])];
        type Op = fn(&Tensor, &Tensor, Option<&Tensor>) -> Result<Tensor>;
        let strided = |op: Op| {
            move |t: &[Tensor]| {
                let bias = t[2].narrow(0, 2, 5)?;
                op(&t[0].transpose(0, 2)?, &t[1].t()?, Some(&bias))
            }
        };
        check(&operands, strided(linear), strided(reference::linear));
    }
}
