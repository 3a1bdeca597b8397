//! Windows on a GPU.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Result, Tensor};

use super::cpu::Geometry;
use crate::gpu::{Arg, Buffer, Kernel, differentiable, launch, rows};

fn run(name: &str, from: &Tensor, to: &mut Buffer, geometry: Geometry) -> Result<()> {
    let Geometry {
        input: (height, width),
        output: (rows, cols),
        channels,
        window,
        ..
    } = geometry;
    let total = to.shape().elem_count();
    let mut args = vec![Arg::Read(from), Arg::Write(to)];
    let numbers = [
        total,
        height,
        width,
        channels,
        rows,
        cols,
        window.kernel,
        window.stride,
        window.padding,
    ];
    args.extend(numbers.map(Arg::Count));
    // SAFETY: `from` and `to` are maps and windows of this geometry, and `total` values are written.
    unsafe {
        launch(
            from.device(),
            &Kernel::new("unfold", name),
            rows::fours(total),
            &mut args,
        )
    }
}

/// See [`super::unfold`]; the input is not empty.
pub(super) fn unfold(xs: &Tensor, geometry: Geometry) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    let Geometry {
        batch,
        output: (rows, cols),
        channels,
        window,
        ..
    } = geometry;
    let width = window.kernel * window.kernel * channels;
    let mut ys = Buffer::new((batch, rows, cols, width), DType::F32, xs.device())?;
    run("unfold_f32", &xs, &mut ys, geometry)?;
    let shape = xs.shape().clone();
    differentiable([&xs], ys, move |_, grad| {
        let mut dx = Buffer::new(shape.clone(), DType::F32, grad.device())?;
        run("unfold_backward_f32", grad, &mut dx, geometry)?;
        Ok([Some(dx.into_tensor())])
    })
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{Window, reference, unfold};
    use crate::testing::{check_on_gpu, random};

    #[test]
    fn follows_the_reference() {
        for (shape, [kernel, stride, padding]) in [
            ([2, 6, 6, 3], [2, 2, 0]),
            ([1, 9, 7, 2], [3, 2, 1]),
            ([1, 8, 12, 4], [7, 4, 3]),
            ([1, 3, 3, 1], [1, 2, 0]),
        ] {
            let window = Window {
                kernel,
                stride,
                padding,
            };
            check_on_gpu(
                &[random(1, &shape)],
                1e-6,
                |t| unfold(&t[0], window),
                |t| reference::unfold(&t[0], window),
            );
        }
    }
}
