//! Normalisation of bytes on a GPU; the CPU's is with [`Norm`](crate::Norm).

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{DType, Tensor};

use super::gpu::{Arg, Buffer, Grid, Kernel, launch};
use super::transfer::upload;
use crate::Result;

/// Values of a thread.
const FOUR: usize = 4;

/// `x / 255 * scale + shift` for bytes `[batch, channels, height, width]`, in one launch, with a scale and a shift
/// for each channel of the bytes; `reverse` turns the order of the channels afterwards. None without bytes or
/// on a device without kernels.
pub(crate) fn normalize_bytes(
    pixels: &Tensor,
    (scale, shift): (&[f64], &[f64]),
    reverse: bool,
) -> Result<Option<Tensor>> {
    let bytes = pixels.dtype() == DType::U8 && pixels.elem_count() > 0;
    if !bytes || !pixels.device().is_cuda() {
        return Ok(None);
    }
    let (batch, channels, height, width) = pixels.dims4()?;
    debug_assert!(scale.len() == channels && shift.len() == channels);
    let (pixels, plane) = (pixels.contiguous()?, height * width);
    #[expect(clippy::cast_possible_truncation, reason = "as tensors of f32 are")]
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
    // SAFETY: bytes and result hold `batch * channels` planes, and there are two factors for each channel.
    unsafe { launch(pixels.device(), &kernel, grid, &mut args)? };
    Ok(Some(ys.into_tensor()))
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use crate::ops::testing::gpu;
    use crate::{Norm, View};
    use candle_core::{Device, Tensor};

    #[test]
    fn bytes_have_the_bits_of_the_cpu() {
        let norms = [
            Norm::imagenet(),
            Norm {
                reverse_channels: true,
                ..Norm::clip()
            },
        ];
        for (height, width) in [(1, 1), (7, 9), (16, 12), (40, 33), (32, 64)] {
            let count = 2 * 3 * height * width;
            let bytes: Vec<u8> = (0..=255).cycle().take(count).collect();
            let pixels = Tensor::from_vec(bytes, (2, 3, height, width), &Device::Cpu).unwrap();
            // The second is a part that begins at any byte, the last one is strided.
            let versions = [
                pixels.clone(),
                pixels.narrow(0, 1, 1).unwrap(),
                pixels.transpose(2, 3).unwrap(),
            ];
            for (norm, pixels) in norms
                .iter()
                .flat_map(|n| versions.iter().map(move |p| (n, p)))
            {
                let values = |pixels: Tensor| -> Vec<f32> {
                    let view = View::new(pixels, vec![]).unwrap();
                    let ys = view.normalized(norm).unwrap();
                    assert_eq!(ys.dims(), view.pixels().dims());
                    ys.flatten_all().unwrap().to_vec1().unwrap()
                };
                let want = values(pixels.clone());
                let device = gpu();
                let before = crate::ops::launches();
                assert_eq!(values(pixels.to_device(device).unwrap()), want);
                assert_eq!(crate::ops::launches(), before + 1);
            }
        }
    }
}
