//! Depth-wise convolution on a GPU.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Device, Result, Tensor};

use super::cpu::Geometry;
use crate::gpu::{Arg, Buffer, Grid, Kernel, differentiable, launch};
use crate::grad_accumulator::{accumulate_if_tracked, tracked_id};

/// Threads of a block: channels by rows.
const THREADS: [u32; 3] = [32, 8, 1];

fn kernel(name: &str, side: usize) -> Kernel {
    let name = match side {
        3 | 5 | 7 => format!("depthwise_conv{name}_f32_{side}"),
        _ => format!("depthwise_conv{name}_f32_any"),
    };
    Kernel::new("depthwise_conv", name)
}

/// The convolution, or its transpose if `turned`; `taps` are `[side * side, channels]`.
fn convolve(
    xs: &Tensor,
    taps: &Tensor,
    bias: Option<&Tensor>,
    (geometry, turned): (Geometry, bool),
) -> Result<Buffer> {
    let mut ys = Buffer::new(xs.shape(), DType::F32, xs.device())?;
    let mut args = vec![
        Arg::Read(xs),
        Arg::Read(taps),
        Arg::Maybe(bias),
        Arg::Write(&mut ys),
    ];
    let numbers = [
        geometry.batch,
        usize::from(turned),
        geometry.height,
        geometry.width,
        geometry.channels,
        geometry.side,
    ];
    args.extend(numbers.map(Arg::Count));
    let strips = geometry.batch * geometry.height * geometry.width.div_ceil(4);
    let grid = Grid {
        blocks: [strips.div_ceil(8), geometry.channels.div_ceil(32), 1],
        threads: THREADS,
        shared: 0,
    };
    // SAFETY: `xs` and `ys` have this geometry; `taps` and `bias` have its channels.
    unsafe { launch(xs.device(), &kernel("", geometry.side), grid, &mut args)? };
    Ok(ys)
}

/// The gradients of taps and bias.
fn backward_weights(xs: &Tensor, grad: &Tensor, geometry: Geometry) -> Result<[Tensor; 2]> {
    /// Image rows per part: small enough to fill a GPU with 64 images.
    const ROWS: usize = 64;
    let Geometry {
        batch,
        height,
        width,
        channels,
        side,
    } = geometry;
    let (device, rows) = (xs.device(), batch * height);
    let (parts, values) = (rows.div_ceil(ROWS), (side * side + 1) * channels);
    let mut partials = Buffer::new((parts, values), DType::F32, device)?;
    let mut args = vec![Arg::Read(xs), Arg::Read(grad), Arg::Write(&mut partials)];
    args.extend([rows, ROWS, height, width, channels, side].map(Arg::Count));
    let planes = match side {
        3 | 5 | 7 => side,
        _ => side * side,
    };
    let grid = Grid {
        blocks: [channels.div_ceil(32), parts, planes],
        threads: THREADS,
        shared: 0,
    };
    // SAFETY: `xs` and `grad` have this geometry; each part has one sum for each tap and for the bias.
    unsafe { launch(device, &kernel("_weights", side), grid, &mut args)? };
    add(&partials.into_tensor(), geometry, device)
}

/// Sums the parts.
fn add(partials: &Tensor, geometry: Geometry, device: &Device) -> Result<[Tensor; 2]> {
    let (parts, values) = partials.dims2()?;
    let Geometry { channels, side, .. } = geometry;
    let mut taps = Buffer::new((side * side, channels), DType::F32, device)?;
    let mut bias = Buffer::new(channels, DType::F32, device)?;
    let mut args = [
        Arg::Read(partials),
        Arg::Write(&mut taps),
        Arg::Write(&mut bias),
        Arg::Count(parts),
        Arg::Count(values),
        Arg::Count(channels),
    ];
    let kernel = Kernel::new("depthwise_conv", "depthwise_conv_add");
    // SAFETY: the shapes are those the kernel takes.
    unsafe { launch(device, &kernel, Grid::each(values), &mut args)? };
    Ok([taps.into_tensor(), bias.into_tensor()])
}

/// See [`super::depthwise_conv`], for a weight of `[taps, channels]`; the input is not empty.
pub(super) fn depthwise_conv(
    xs: &Tensor,
    taps: &Tensor,
    bias: &Tensor,
    geometry: Geometry,
) -> Result<Tensor> {
    let (xs, taps, bias) = (xs.contiguous()?, taps.contiguous()?, bias.contiguous()?);
    let (tracked, shift) = ([&xs, &taps].map(Tensor::track_op), tracked_id(&bias));
    let (values, weights) = (xs.detach(), taps.detach());
    let ys = convolve(&values, &weights, Some(&bias.detach()), (geometry, false))?;
    differentiable([&xs, &taps, &bias], ys, move |_, grad| {
        let dx = match tracked[0] {
            true => Some(convolve(grad, &weights, None, (geometry, true))?.into_tensor()),
            false => None,
        };
        if !tracked[1] && shift.is_none() {
            return Ok([dx, None, None]);
        }
        let [dw, db] = backward_weights(&values, grad, geometry)?;
        Ok([
            dx,
            tracked[1].then_some(dw),
            accumulate_if_tracked(shift, db)?,
        ])
    })
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{depthwise_conv, reference};
    use crate::testing::{check_on_gpu, random};

    #[test]
    fn follows_the_reference() {
        for ([batch, height, width, channels], side) in [
            ([1, 1, 1, 1], 3),
            ([2, 5, 6, 3], 3),
            ([1, 9, 4, 33], 5),
            ([2, 70, 3, 4], 7),
            ([1, 4, 5, 2], 1),
        ] {
            let inputs = [
                random(1, &[batch, height, width, channels]),
                random(2, &[channels, 1, side, side]),
                random(3, &[channels]),
            ];
            check_on_gpu(
                &inputs,
                5e-6,
                |t| depthwise_conv(&t[0], &t[1], &t[2]),
                |t| reference::depthwise_conv(&t[0], &t[1], &t[2]),
            );
        }
    }
}
