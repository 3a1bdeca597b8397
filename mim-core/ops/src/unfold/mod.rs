//! Sliding windows of channels-last feature maps, as rows for a matrix product.

mod cpu;
mod gpu;
mod reference;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::cpu_slices::{floats, is_f32_on_cpu, operand};
use super::gpu::is_supported;
use super::profile::{Pass, timer};
use crate::{Error, Result};

/// Geometry of the windows of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Side in pixels.
    pub kernel: usize,
    /// Distance between windows in pixels.
    pub stride: usize,
    /// Zero padding around the map in pixels.
    pub padding: usize,
}

impl Window {
    /// Number of windows along an axis of `length` pixels; `None` if not even one fits.
    pub fn count(self, length: usize) -> Option<usize> {
        let room = (length + 2 * self.padding).checked_sub(self.kernel)?;
        (self.kernel > 0 && self.stride > 0).then(|| room / self.stride + 1)
    }
}

/// Extracts the windows of `xs` `[batch, height, width, channels]`: `[batch, rows, cols, kernel * kernel * channels]`.
///
/// Values in a window are ordered (row, column, channel); unfold and a linear map make a convolution. The
/// gradient of a pixel is the sum over its windows, always added in the same order.
///
/// # Errors
///
/// [`Error::Shape`] for another rank or a map smaller than a window.
pub fn unfold(xs: &Tensor, window: Window) -> Result<Tensor> {
    if let [batch, height, width, channels] = *xs.dims()
        && let (Some(rows), Some(cols)) = (window.count(height), window.count(width))
    {
        let geometry = cpu::Geometry {
            batch,
            input: (height, width),
            output: (rows, cols),
            channels,
            window,
        };
        if is_supported(&[xs]) {
            return Ok(gpu::unfold(xs, geometry)?);
        }
        if !is_f32_on_cpu(&[xs]) {
            return reference::unfold(xs, window);
        }
        return Ok(xs.contiguous()?.apply_op1(Unfold(geometry))?);
    }
    Err(Error::shape(
        "unfold",
        format!("[batch, height, width, channels] with room for {window:?}"),
        xs.dims(),
        "put the channels last, or give larger images",
    ))
}

struct Unfold(cpu::Geometry);

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer("unfold", Pass::Forward, l.dims(), 0.);
        let ys = cpu::forward(operand(xs, l)?, self.0);
        let ((rows, cols), width) = (self.0.output, self.0.values());
        Ok((
            CpuStorage::F32(ys),
            (self.0.batch, rows, cols, width).into(),
        ))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let _timer = timer("unfold", Pass::Backward, xs.dims(), 0.);
        let grad = grad.contiguous()?;
        let dx = cpu::backward(&floats(&grad)?, self.0);
        Ok(Some(Tensor::from_vec(dx, xs.shape(), xs.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_repeats, random};
    use candle_core::Device;

    fn window(kernel: usize, stride: usize, padding: usize) -> Window {
        Window {
            kernel,
            stride,
            padding,
        }
    }

    #[test]
    fn windows_overlap_and_see_zeros_around() {
        let xs = Tensor::new(&[1f32, 2., 3., 4.], &Device::Cpu).unwrap();
        let xs = xs.reshape((1, 2, 2, 1)).unwrap();
        let ys = unfold(&xs, window(3, 2, 1)).unwrap();
        assert_eq!(ys.dims(), [1, 1, 1, 9]);
        let ys: Vec<f32> = ys.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(ys, [0., 0., 0., 0., 1., 2., 0., 3., 4.]);
    }

    #[test]
    fn follows_the_reference() {
        for (shape, window) in [
            ([2, 4, 6, 3], window(2, 2, 0)),
            ([1, 9, 7, 2], window(3, 2, 1)),
            ([1, 8, 12, 3], window(7, 4, 3)),
            ([2, 5, 5, 4], window(3, 1, 1)),
            ([1, 3, 3, 1], window(1, 2, 0)),
        ] {
            check(
                &[random(1, &shape)],
                1e-6,
                |t| unfold(&t[0], window),
                |t| reference::unfold(&t[0], window),
            );
        }
    }

    #[test]
    fn refuses_maps_without_room() {
        assert!(unfold(&random(1, &[1, 2, 2, 1]), window(3, 1, 0)).is_err());
        assert!(unfold(&random(1, &[1, 2, 2]), window(1, 1, 0)).is_err());
        assert!(unfold(&random(1, &[1, 2, 2, 1]), window(1, 0, 0)).is_err());
    }

    #[test]
    fn repeats_bit_for_bit() {
        check_repeats(&[random(1, &[3, 33, 21, 8])], |t| {
            unfold(&t[0], window(3, 2, 1))
        });
    }
}
