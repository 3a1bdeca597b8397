//! Normalisation of image bytes on a GPU.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Tensor};

use super::device_copy::upload;
use super::gpu::{Arg, Buffer, Grid, Kernel, launch};
use crate::{Error, Result};

/// Values per thread.
const FOUR: usize = 4;

/// `x / 255 * scale + shift` for bytes `[batch, channels, height, width]` on a CUDA device, in one launch, with one
/// scale and one shift per channel. With `reverse`, the order of the channels is reversed afterwards.
///
/// `None` if `pixels` are not bytes, are empty, or are on another device.
///
/// # Errors
///
/// [`Error::Shape`] if there is not one scale and one shift for each channel.
pub fn normalize_bytes(
    pixels: &Tensor,
    (scale, shift): (&[f64], &[f64]),
    reverse: bool,
) -> Result<Option<Tensor>> {
    let bytes = pixels.dtype() == DType::U8 && pixels.elem_count() > 0;
    if !bytes || !pixels.device().is_cuda() {
        return Ok(None);
    }
    let (batch, channels, height, width) = pixels.dims4()?;
    if scale.len() != channels || shift.len() != channels {
        return Err(Error::shape(
            "normalize_bytes scale and shift",
            [channels; 2],
            [scale.len(), shift.len()],
            "give one scale and one shift per channel",
        ));
    }
    let (pixels, plane) = (pixels.contiguous()?, height * width);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel computes in f32"
    )]
    let factors: Vec<f32> = scale.iter().chain(shift).map(|x| *x as f32).collect();
    let factors = upload(factors, 2 * channels, pixels.device())?;
    let mut ys = Buffer::new(pixels.shape(), DType::F32, pixels.device())?;
    let parts = plane.div_ceil(FOUR * Grid::THREADS as usize);
    let mut args = [
        Arg::Read(&pixels),
        Arg::Read(&factors),
        Arg::Write(&mut ys),
        Arg::Count(parts),
        Arg::Count(plane),
        Arg::Count(channels),
        Arg::Count(usize::from(reverse)),
    ];
    let kernel = Kernel::new("normalize_bytes", "normalize_bytes");
    let grid = Grid::line(batch * channels * parts, Grid::THREADS);
    // SAFETY: input and output hold `batch * channels` planes, and there are two factors per channel.
    unsafe { launch(pixels.device(), &kernel, grid, &mut args)? };
    Ok(Some(ys.into_tensor()))
}
