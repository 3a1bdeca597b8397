//! Depth-wise convolution of channels-last feature maps.

mod cpu;
mod gpu;
mod reference;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use self::cpu::Geometry;
use super::cpu_slices::{expect_shape, floats, is_f32_on_cpu, operand};
use super::gpu::is_supported;
use super::grad_accumulator::accumulate_values_or_return;
use super::profile::{Pass, timer};
use crate::{Error, Result};

/// Convolves each channel with its own kernel: stride 1, zero padding, same size.
///
/// `xs` is `[batch, height, width, channels]`; `weight` is `[channels, 1, k, k]` with odd `k`, as in PyTorch's
/// `Conv2d(groups = channels, padding = k / 2)`; `bias` is `[channels]`. The channels come last, as
/// in the surrounding layer norms and 1x1 convolutions, so that the innermost loop runs over them.
/// candle's own grouped convolution loops over groups.
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not match or the side of the kernel is even.
pub fn depthwise_conv(xs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let side = kernel_side(weight.dims());
    let Some(geometry) = side.and_then(|side| Geometry::of(xs.dims(), side)) else {
        return Err(Error::shape(
            "depthwise_conv",
            "[batch, height, width, channels] and [channels, 1, k, k] with odd k",
            (xs.dims(), weight.dims()),
            "put the channels last and use a kernel with an odd side",
        ));
    };
    let Geometry { channels, side, .. } = geometry;
    expect_shape(
        "depthwise_conv",
        "weight",
        weight,
        &[channels, 1, side, side],
    )?;
    expect_shape("depthwise_conv", "bias", bias, &[channels])?;
    let on_gpu = is_supported(&[xs, weight, bias]);
    if on_gpu || is_f32_on_cpu(&[xs, weight, bias]) {
        // Taps first, so that the weights of neighbouring channels are adjacent.
        let taps = weight.reshape((channels, side * side))?.t()?.contiguous()?;
        if on_gpu {
            return Ok(gpu::depthwise_conv(xs, &taps, bias, geometry)?);
        }
        return Ok(xs.contiguous()?.apply_op3(
            &taps,
            &bias.contiguous()?,
            DepthwiseConv { side },
        )?);
    }
    reference::depthwise_conv(xs, weight, bias)
}

/// The side of a kernel `[channels, 1, k, k]` with odd `k`.
fn kernel_side(weight: &[usize]) -> Option<usize> {
    match *weight {
        [_, 1, rows, cols] if rows == cols && rows % 2 == 1 => Some(rows),
        _ => None,
    }
}

/// Operands: the input, the weights as `[taps, channels]`, and the bias.
struct DepthwiseConv {
    side: usize,
}

impl DepthwiseConv {
    fn geometry(&self, xs: &[usize]) -> candle_core::Result<Geometry> {
        Geometry::of(xs, self.side)
            .ok_or_else(|| candle_core::Error::msg("depthwise_conv needs an input of four axes"))
    }
}

impl CustomOp3 for DepthwiseConv {
    fn name(&self) -> &'static str {
        "depthwise_conv"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_l: &Layout,
        taps: &CpuStorage,
        taps_l: &Layout,
        bias: &CpuStorage,
        bias_l: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer("depthwise_conv", Pass::Forward, xs_l.dims(), 0.);
        let geometry = self.geometry(xs_l.dims())?;
        let ys = cpu::forward(
            operand(xs, xs_l)?,
            operand(taps, taps_l)?,
            Some(operand(bias, bias_l)?),
            geometry,
        );
        Ok((CpuStorage::F32(ys), xs_l.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        taps: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let _timer = timer("depthwise_conv", Pass::Backward, xs.dims(), 0.);
        let geometry = self.geometry(xs.dims())?;
        let grad = grad.contiguous()?;
        let (values, weights, grad) = (floats(xs)?, floats(taps)?, floats(&grad)?);
        let device = xs.device();
        let mut grads = (None, None, None);
        if xs.track_op() {
            // The transpose of a convolution is a convolution with the kernel rotated by half a turn.
            let turned: Vec<f32> = weights
                .chunks_exact(geometry.channels)
                .rev()
                .flatten()
                .copied()
                .collect();
            let dx = cpu::forward(&grad, &turned, None, geometry);
            grads.0 = Some(Tensor::from_vec(dx, xs.shape(), device)?);
        }
        if taps.track_op() || bias.track_op() {
            let (dw, db) = cpu::backward_weights(&values, &grad, geometry);
            grads.1 = Some(Tensor::from_vec(dw, taps.shape(), device)?);
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
    fn a_kernel_sees_zeros_around_the_image() {
        let xs = Tensor::new(&[1f32, 2., 3.], &Device::Cpu).unwrap();
        let weight = Tensor::new(&[0f32, 0., 0., 10., 1., 100., 0., 0., 0.], &Device::Cpu).unwrap();
        let bias = Tensor::new(&[0.5f32], &Device::Cpu).unwrap();
        let ys = depthwise_conv(
            &xs.reshape((1, 1, 3, 1)).unwrap(),
            &weight.reshape((1, 1, 3, 3)).unwrap(),
            &bias,
        )
        .unwrap();
        let ys: Vec<f32> = ys.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(ys, [201.5, 312.5, 23.5]);
    }

    #[test]
    fn follows_the_reference() {
        for (shape, side) in [
            ([1, 1, 1, 1], 1),
            ([2, 3, 4, 5], 3),
            ([1, 2, 7, 40], 5),
            ([2, 6, 5, 33], 5),
            ([1, 3, 3, 70], 7),
        ] {
            let channels = shape[3];
            let inputs = [
                random(1, &shape),
                random(2, &[channels, 1, side, side]),
                random(3, &[channels]),
            ];
            check(
                &inputs,
                5e-6,
                |t| depthwise_conv(&t[0], &t[1], &t[2]),
                |t| reference::depthwise_conv(&t[0], &t[1], &t[2]),
            );
        }
    }

    #[test]
    fn agrees_with_a_grouped_convolution() {
        let (xs, weight) = (random(1, &[2, 5, 6, 8]), random(2, &[8, 1, 5, 5]));
        let bias = Tensor::zeros(8, candle_core::DType::F32, &Device::Cpu).unwrap();
        let own = depthwise_conv(&xs, &weight, &bias).unwrap();
        let maps = xs.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let maps = maps.conv2d(&weight, 2, 1, 1, 8).unwrap();
        let difference = (own - maps.permute((0, 2, 3, 1)).unwrap()).unwrap();
        let largest = difference.abs().unwrap().flatten_all().unwrap();
        let largest = largest.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(largest < 1e-4, "{largest}");
    }

    #[test]
    fn takes_channels_first_as_a_view() {
        let inputs = [
            random(1, &[2, 3, 4, 5]),
            random(2, &[3, 1, 3, 3]),
            random(3, &[3]),
        ];
        check(
            &inputs,
            5e-6,
            |t| depthwise_conv(&t[0].permute((0, 2, 3, 1))?, &t[1], &t[2]),
            |t| reference::depthwise_conv(&t[0].permute((0, 2, 3, 1))?, &t[1], &t[2]),
        );
    }

    #[test]
    fn refuses_even_kernels_and_other_channels() {
        let xs = random(1, &[1, 4, 4, 3]);
        let refused = |weight: &[usize], bias: usize| {
            depthwise_conv(&xs, &random(2, weight), &random(3, &[bias])).is_err()
        };
        assert!(refused(&[3, 1, 2, 2], 3) && refused(&[3, 3, 3, 3], 3));
        assert!(refused(&[4, 1, 3, 3], 4) && refused(&[3, 1, 3, 3], 2));
    }

    #[test]
    fn repeats_bit_for_bit() {
        let inputs = [
            random(1, &[3, 20, 21, 48]),
            random(2, &[48, 1, 5, 5]),
            random(3, &[48]),
        ];
        check_repeats(&inputs, |t| depthwise_conv(&t[0], &t[1], &t[2]));
    }
}
