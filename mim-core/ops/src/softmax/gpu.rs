//! Softmax on a GPU.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Result, Tensor};

use crate::gpu::{Arg, Buffer, Kernel, differentiable, launch, rows};

/// See [`super::softmax`].
pub(super) fn softmax(xs: &Tensor) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    let width = xs.dim(candle_core::D::Minus1)?;
    let height = xs.elem_count() / width;
    let mut ys = Buffer::new(xs.shape(), DType::F32, xs.device())?;
    let mut args = [
        Arg::Read(&xs),
        Arg::Write(&mut ys),
        Arg::Count(height),
        Arg::Count(width),
    ];
    let kernel = Kernel::new("softmax", "softmax_forward");
    // SAFETY: both operands are `[height, width]`.
    unsafe { launch(xs.device(), &kernel, rows::warps(height), &mut args)? };
    differentiable([&xs], ys, move |ys, grad| {
        let mut dx = Buffer::new(ys.shape(), DType::F32, ys.device())?;
        let mut args = [
            Arg::Read(ys),
            Arg::Read(grad),
            Arg::Write(&mut dx),
            Arg::Count(height),
            Arg::Count(width),
        ];
        let kernel = Kernel::new("softmax", "softmax_backward");
        // SAFETY: all operands are `[height, width]`.
        unsafe { launch(ys.device(), &kernel, rows::warps(height), &mut args)? };
        Ok([Some(dx.into_tensor())])
    })
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{reference, softmax};
    use crate::testing::{check_on_gpu, gpu, random};
    use candle_core::Tensor;

    #[test]
    fn follows_the_reference() {
        for shape in [&[1][..], &[5, 1], &[3, 7, 50], &[13, 197]] {
            let xs = [(random(1, shape) * 4.0).unwrap()];
            check_on_gpu(&xs, 2e-6, |t| softmax(&t[0]), |t| reference::softmax(&t[0]));
        }
    }

    #[test]
    fn hidden_entries_get_exactly_zero_and_nan_propagates() {
        let device = gpu();
        let hidden = f32::NEG_INFINITY;
        let rows = [[0f32, hidden], [hidden, hidden], [1., f32::NAN]];
        let ys = softmax(&Tensor::new(&rows, device).unwrap()).unwrap();
        let ys = ys.to_vec2::<f32>().unwrap();
        assert_eq!(ys[0], [1., 0.]);
        assert!(ys[1..].iter().flatten().all(|y| y.is_nan()));
    }
}
