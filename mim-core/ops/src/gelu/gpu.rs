//! Gaussian error linear units on a GPU.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Result, Tensor};

use crate::gpu::{Arg, Buffer, Kernel, differentiable, launch, rows, type_name};

/// The GELU form; it selects the kernels.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Gelu,
    /// `x σ(1.702 x)`, f32 only.
    QuickGelu,
}

impl Unit {
    fn kernel(self, pass: &str, types: [DType; 2]) -> Result<Kernel> {
        let name = match self {
            Self::Gelu => "gelu",
            Self::QuickGelu => "quick_gelu",
        };
        let (first, second) = (type_name(types[0])?, type_name(types[1])?);
        let name = format!("{name}_{pass}_{first}_{second}");
        Ok(Kernel::new("gelu", name))
    }

    /// Applies the unit to f32 or bf16 values with `bias` added to each row; the output is `dtype`.
    pub(crate) fn forward(
        self,
        xs: &Tensor,
        bias: Option<&Tensor>,
        dtype: DType,
    ) -> Result<Buffer> {
        let total = xs.elem_count();
        let mut ys = Buffer::new(xs.shape(), dtype, xs.device())?;
        let mut args = [
            Arg::Read(xs),
            Arg::Maybe(bias),
            Arg::Write(&mut ys),
            Arg::Count(total),
            Arg::Count(width(bias)),
        ];
        let kernel = self.kernel("forward", [xs.dtype(), dtype])?;
        // SAFETY: `xs` and `ys` hold `total` values, in rows as wide as the bias.
        unsafe { launch(xs.device(), &kernel, rows::fours(total), &mut args)? };
        Ok(ys)
    }

    /// The gradient of the input of [`Unit::forward`], in its dtype; with `again`, also its output, computed again.
    pub(crate) fn backward(
        self,
        xs: &Tensor,
        bias: Option<&Tensor>,
        grad: &Tensor,
        again: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let total = xs.elem_count();
        let mut dx = Buffer::new(xs.shape(), xs.dtype(), xs.device())?;
        let mut ys = match again {
            true => Some(Buffer::new(xs.shape(), xs.dtype(), xs.device())?),
            false => None,
        };
        let mut args = [
            Arg::Read(xs),
            Arg::Maybe(bias),
            Arg::Read(grad),
            Arg::Write(&mut dx),
            Arg::MaybeWrite(ys.as_mut()),
            Arg::Count(total),
            Arg::Count(width(bias)),
        ];
        let kernel = self.kernel("backward", [xs.dtype(), grad.dtype()])?;
        // SAFETY: all operands but the bias hold `total` values, in rows as wide as the bias.
        unsafe { launch(xs.device(), &kernel, rows::fours(total), &mut args)? };
        Ok((dx.into_tensor(), ys.map(Buffer::into_tensor)))
    }

    /// Applies the unit to f32 values of any shape.
    pub(crate) fn apply(self, xs: &Tensor) -> Result<Tensor> {
        let xs = xs.contiguous()?;
        let values = xs.detach();
        let ys = self.forward(&values, None, DType::F32)?;
        differentiable([&xs], ys, move |_, grad| {
            Ok([Some(self.backward(&values, None, grad, false)?.0)])
        })
    }
}

fn width(bias: Option<&Tensor>) -> usize {
    bias.map_or(1, Tensor::elem_count)
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{gelu, reference};
    use crate::quick_gelu;
    use crate::testing::{check_on_gpu, random};

    #[test]
    fn both_forms_follow_their_references() {
        for shape in [&[1][..], &[7], &[3, 5, 11], &[2, 600]] {
            let xs = [(random(1, shape) * 2.5).unwrap()];
            check_on_gpu(&xs, 1e-6, |t| gelu(&t[0]), |t| reference::gelu(&t[0]));
            let quick = |t: &[candle_core::Tensor]| {
                let xs = &t[0];
                Ok((xs / ((xs * -1.702)?.exp()? + 1.)?)?)
            };
            check_on_gpu(&xs, 1e-6, |t| quick_gelu(&t[0]), quick);
        }
    }
}
