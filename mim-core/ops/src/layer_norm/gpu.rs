//! Layer normalisation on a GPU.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Result, Tensor};

use crate::gpu::{Arg, Buffer, Kernel, differentiable, launch, rows, type_name};
use crate::grad_accumulator::{accumulate_if_tracked, tracked_id};

/// Normalised rows and their statistics for the backward pass.
pub(crate) struct Normalized {
    pub(crate) ys: Buffer,
    /// Mean and reciprocal of the standard deviation, `[rows, 2]`.
    pub(crate) moments: Tensor,
}

/// Parameters of a norm: weight and bias, if any, and epsilon.
#[derive(Clone)]
pub(crate) struct Norm {
    pub(crate) affine: Option<[Tensor; 2]>,
    pub(crate) eps: f32,
}

impl Norm {
    fn weight(&self) -> Option<&Tensor> {
        self.affine.as_ref().map(|[weight, _]| weight)
    }

    /// Normalises f32 rows; the output is `dtype`.
    pub(crate) fn forward(&self, xs: &Tensor, dtype: DType) -> Result<Normalized> {
        let (height, width) = matrix(xs);
        let mut ys = Buffer::new(xs.shape(), dtype, xs.device())?;
        let mut moments = Buffer::new((height, 2), DType::F32, xs.device())?;
        let mut args = [
            Arg::Read(xs),
            Arg::Maybe(self.weight()),
            Arg::Maybe(self.affine.as_ref().map(|[_, bias]| bias)),
            Arg::Write(&mut ys),
            Arg::Write(&mut moments),
            Arg::Count(height),
            Arg::Count(width),
            Arg::Float(self.eps),
        ];
        let kernel = kernel("forward", dtype)?;
        // SAFETY: `xs` and `ys` are `[height, width]`, weight and bias `[width]`; each row has two moments.
        unsafe { launch(xs.device(), &kernel, rows::warps(height), &mut args)? };
        let moments = moments.into_tensor();
        Ok(Normalized { ys, moments })
    }

    /// The gradient of `xs` from that of its normalised rows, plus `added`.
    pub(crate) fn backward(
        &self,
        (xs, moments): (&Tensor, &Tensor),
        grad: &Tensor,
        added: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (height, width) = matrix(xs);
        let mut dx = Buffer::new(xs.shape(), DType::F32, xs.device())?;
        let mut args = [
            Arg::Read(xs),
            Arg::Read(moments),
            Arg::Maybe(self.weight()),
            Arg::Read(grad),
            Arg::Maybe(added),
            Arg::Write(&mut dx),
            Arg::Count(height),
            Arg::Count(width),
        ];
        let kernel = kernel("backward", grad.dtype())?;
        // SAFETY: `xs`, `grad`, `added` and `dx` are `[height, width]`, the weight is `[width]`; each row has two
        // moments.
        unsafe { launch(xs.device(), &kernel, rows::warps(height), &mut args)? };
        Ok(dx.into_tensor())
    }
}

/// The gradients of weight and bias.
pub(crate) fn backward_affine(
    (xs, moments): (&Tensor, &Tensor),
    grad: &Tensor,
) -> Result<[Tensor; 2]> {
    let (height, width) = matrix(xs);
    let parts = rows::Parts::of(height, width);
    let mut partials = Buffer::new((parts.count, 2 * width), DType::F32, xs.device())?;
    let mut args = [
        Arg::Read(xs),
        Arg::Read(moments),
        Arg::Read(grad),
        Arg::Write(&mut partials),
        Arg::Count(height),
        Arg::Count(width),
        Arg::Count(parts.rows),
    ];
    let kernel = kernel("affine", grad.dtype())?;
    // SAFETY: `xs` and `grad` are `[height, width]`, each row has two moments, and there are two rows of partial
    // sums per block along the second axis.
    unsafe { launch(xs.device(), &kernel, parts.grid, &mut args)? };
    let sums = rows::add_partials(&partials.into_tensor())?;
    Ok([sums.narrow(0, 0, width)?, sums.narrow(0, width, width)?])
}

fn kernel(pass: &str, dtype: DType) -> Result<Kernel> {
    let name = format!("layer_norm_{pass}_{}", type_name(dtype)?);
    Ok(Kernel::new("layer_norm", name))
}

fn matrix(xs: &Tensor) -> (usize, usize) {
    let width = xs.dims().last().copied().unwrap_or(1).max(1);
    (xs.elem_count() / width, width)
}

/// See [`super::layer_norm()`].
pub(super) fn layer_norm(xs: &Tensor, [weight, bias]: [&Tensor; 2], eps: f32) -> Result<Tensor> {
    let (xs, weight, bias) = (xs.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let norm = Norm {
        affine: Some([weight.detach(), bias.detach()]),
        eps,
    };
    let values = xs.detach();
    let (tracked, affine) = (xs.track_op(), [&weight, &bias].map(tracked_id));
    let Normalized { ys, moments } = norm.forward(&values, DType::F32)?;
    differentiable([&xs, &weight, &bias], ys, move |_, grad| {
        let rows = (&values, &moments);
        let dx = match tracked {
            true => Some(norm.backward(rows, grad, None)?),
            false => None,
        };
        if affine == [None, None] {
            return Ok([dx, None, None]);
        }
        let [dw, db] = backward_affine(rows, grad)?;
        Ok([
            dx,
            accumulate_if_tracked(affine[0], dw)?,
            accumulate_if_tracked(affine[1], db)?,
        ])
    })
}

/// See [`super::normalize`].
pub(super) fn normalize(xs: &Tensor, eps: f32) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    let norm = Norm { affine: None, eps };
    let values = xs.detach();
    let Normalized { ys, moments } = norm.forward(&values, DType::F32)?;
    differentiable([&xs], ys, move |_, grad| {
        Ok([Some(norm.backward((&values, &moments), grad, None)?)])
    })
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{layer_norm, normalize, reference};
    use crate::testing::{check_on_gpu, random};

    #[test]
    fn follows_the_reference() {
        for shape in [&[7][..], &[1, 1, 5], &[3, 5, 33], &[150, 8], &[2, 19, 260]] {
            let width = shape[shape.len() - 1];
            let inputs = [random(1, shape), random(2, &[width]), random(3, &[width])];
            check_on_gpu(
                &inputs,
                5e-6,
                |t| layer_norm(&t[0], &t[1], &t[2], 1e-6),
                |t| reference::layer_norm(&t[0], &t[1], &t[2], 1e-6),
            );
            check_on_gpu(
                &inputs[..1],
                5e-6,
                |t| normalize(&t[0], 1e-6),
                |t| reference::normalize(&t[0], 1e-6),
            );
        }
    }

    #[test]
    fn takes_strided_and_shifted_input() {
        let inputs = [random(1, &[6, 4, 3]), random(2, &[6]), random(3, &[6])];
        check_on_gpu(
            &inputs,
            5e-6,
            |t| layer_norm(&t[0].transpose(0, 2)?, &t[1], &t[2], 1e-5),
            |t| reference::layer_norm(&t[0].transpose(0, 2)?, &t[1], &t[2], 1e-5),
        );
        let inputs = [random(1, &[5, 8]), random(2, &[17]), random(3, &[9])];
        let parts = |t: &[candle_core::Tensor]| -> crate::Result<[candle_core::Tensor; 3]> {
            Ok([
                t[0].narrow(0, 1, 3)?,
                t[1].narrow(0, 3, 8)?,
                t[2].narrow(0, 1, 8)?,
            ])
        };
        check_on_gpu(
            &inputs,
            5e-6,
            |t| parts(t).and_then(|[xs, w, b]| layer_norm(&xs, &w, &b, 1e-6)),
            |t| parts(t).and_then(|[xs, w, b]| reference::layer_norm(&xs, &w, &b, 1e-6)),
        );
    }
}
