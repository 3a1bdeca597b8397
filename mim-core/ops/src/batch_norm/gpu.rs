//! Batch normalisation on a GPU.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Device, Result, Tensor};

use super::BatchNormOutput;
use crate::gpu::{Arg, Buffer, Grid, Kernel, differentiable, launch, rows::Parts};
use crate::grad_accumulator::{accumulate_if_tracked, tracked_id};

/// Size of a matrix, and the partition of its rows for sums.
#[derive(Clone)]
struct Matrix {
    rows: usize,
    width: usize,
    parts: Parts,
    device: Device,
}

impl Matrix {
    fn run(&self, name: &str, args: &mut Vec<Arg<'_>>) -> Result<()> {
        let kernel = Kernel::new("batch_norm", name);
        // SAFETY: as the kernel requires, all operands are `[rows, width]`, per-column values, or partial sums of
        // columns.
        unsafe { launch(&self.device, &kernel, self.parts.grid, args) }
    }

    fn numbers(&self) -> [Arg<'static>; 3] {
        [self.rows, self.parts.rows, self.width].map(Arg::Count)
    }

    /// Column sums, several sets at once: kernel `name` gives those of each part; the total is divided by `count`.
    fn sums(
        &self,
        name: &str,
        (several, count): (usize, usize),
        operands: &[&Tensor],
        eps: Option<f32>,
    ) -> Result<Tensor> {
        let values = several * self.width;
        let mut partials = Buffer::new((self.parts.count, values), DType::F32, &self.device)?;
        let mut args: Vec<Arg<'_>> = operands.iter().map(|t| Arg::Read(t)).collect();
        args.push(Arg::Write(&mut partials));
        args.extend(self.numbers());
        args.extend(eps.map(Arg::Float));
        self.run(name, &mut args)?;
        drop(args);
        let partials = partials.into_tensor();
        let mut sums = Buffer::new(values, DType::F32, &self.device)?;
        let mut args = vec![Arg::Read(&partials), Arg::Write(&mut sums)];
        args.extend([self.parts.count, values, count].map(Arg::Count));
        let kernel = Kernel::new("batch_norm", "batch_norm_add");
        // SAFETY: the shapes are those the kernel takes.
        unsafe { launch(&self.device, &kernel, Grid::each(values), &mut args)? };
        Ok(sums.into_tensor())
    }
}

/// See [`super::batch_norm`]; the input is not empty.
pub(super) fn batch_norm(
    xs: &Tensor,
    [weight, bias]: [&Tensor; 2],
    eps: f32,
) -> Result<BatchNormOutput> {
    let (xs, weight, bias) = (xs.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let (tracked, affine) = (xs.track_op(), [&weight, &bias].map(tracked_id));
    let (values, scale, shift) = (xs.detach(), weight.detach(), bias.detach());
    let width = scale.elem_count();
    let rows = values.elem_count() / width;
    let matrix = Matrix {
        rows,
        width,
        parts: Parts::of(rows, width),
        device: values.device().clone(),
    };
    let mean = matrix.sums("batch_norm_sums_f32", (1, rows), &[&values], None)?;
    let operands = [&values, &mean];
    let variance = matrix.sums("batch_norm_squares_f32", (1, rows), &operands, None)?;
    let mut ys = Buffer::new(values.shape(), DType::F32, &matrix.device)?;
    let mut args: Vec<Arg<'_>> = [&values, &mean, &variance, &scale, &shift]
        .map(Arg::Read)
        .into();
    args.push(Arg::Write(&mut ys));
    args.extend(matrix.numbers());
    args.push(Arg::Float(eps));
    matrix.run("batch_norm_f32", &mut args)?;
    drop(args);
    let statistics = (mean.clone(), variance.clone());
    let ys = differentiable([&xs, &weight, &bias], ys, move |_, grad| {
        let (mean, variance) = &statistics;
        let operands = [&values, grad, mean, variance];
        let slopes = matrix.sums("batch_norm_slopes_f32", (2, 1), &operands, Some(eps))?;
        let mut dx = None;
        if tracked {
            let mut values_dx = Buffer::new(values.shape(), DType::F32, grad.device())?;
            let operands = [&values, grad, mean, variance, &scale, &slopes];
            let mut args: Vec<Arg<'_>> = operands.map(Arg::Read).into();
            args.push(Arg::Write(&mut values_dx));
            args.extend(matrix.numbers());
            args.push(Arg::Float(eps));
            matrix.run("batch_norm_backward_f32", &mut args)?;
            drop(args);
            dx = Some(values_dx.into_tensor());
        }
        let row = |place: usize| {
            accumulate_if_tracked(affine[place], slopes.narrow(0, place * width, width)?)
        };
        Ok([dx, row(0)?, row(1)?])
    })?;
    Ok(BatchNormOutput { ys, mean, variance })
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{batch_norm, reference};
    use crate::testing::{check_on_gpu, random};

    #[test]
    fn follows_the_reference() {
        for shape in [&[3, 1][..], &[70, 5], &[2, 7, 40], &[150, 33]] {
            let width = shape[shape.len() - 1];
            let inputs = [random(1, shape), random(2, &[width]), random(3, &[width])];
            check_on_gpu(
                &inputs,
                2e-5,
                |t| Ok(batch_norm(&t[0], &t[1], &t[2], 1e-5)?.ys),
                |t| Ok(reference::batch_norm(&t[0], (&t[1], &t[2]), 1e-5, None)?.ys),
            );
        }
    }
}
