//! Histograms of oriented gradients on a GPU.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Result, Tensor};

use super::{HogFilter, HogGradient, edges, gaussian};
use crate::device_copy::send;
use crate::gpu::{Arg, Buffer, Grid, Kernel, launch};

/// Threads per block; each keeps its counts in shared memory.
const THREADS: u32 = 128;

/// The maximum number of bins that fits in shared memory.
pub(super) const MOST_BINS: usize = 96;

/// See [`super::hog`]; the settings were checked, there are at most [`MOST_BINS`] bins and at least one image.
pub(super) fn hog(images: &Tensor, filter: HogFilter) -> Result<Tensor> {
    let images = images.contiguous()?;
    let (batch, channels, height, width) = images.dims4()?;
    let HogFilter { bins, cell, .. } = filter;
    let (rows, cols) = (height / cell, width / cell);
    let edges = edges(bins).into_iter();
    // A kernel cannot take an empty table; with a single bin it reads none.
    let mut table: Vec<f32> = edges.flat_map(|e| [e.cos[0], e.cos[1], e.sin]).collect();
    table.resize(table.len().max(1), 0.);
    let entries = table.len();
    let edges = send(table, entries, images.device())?;
    let window = match filter.window {
        Some(side) => Some(send(gaussian(side), side * side, images.device())?),
        None => None,
    };
    let shape = (batch, channels, bins, rows, cols);
    let mut histograms = Buffer::new(shape, DType::F32, images.device())?;
    let mut args = vec![
        Arg::Read(&images),
        Arg::Write(&mut histograms),
        Arg::Read(&edges),
        Arg::Maybe(window.as_ref()),
    ];
    let planes = batch * channels;
    let sobel = usize::from(filter.gradient == HogGradient::Sobel);
    let side = filter.window.unwrap_or(1);
    args.extend([planes, height, width, bins, cell, side, sobel].map(Arg::Count));
    let grid = Grid {
        shared: 4 * bins * THREADS as usize,
        ..Grid::line((planes * rows * cols).div_ceil(THREADS as usize), THREADS)
    };
    let kernel = Kernel::new("hog", "hog_histograms");
    // SAFETY: sizes and tables match the kernel; a block's shared memory holds a count per thread and bin.
    unsafe { launch(images.device(), &kernel, grid, &mut args)? };
    Ok(histograms.into_tensor())
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{HogFilter, HogGradient, hog};
    use crate::launches;
    use crate::testing::{gpu, random};
    use candle_core::Tensor;

    #[test]
    fn matches_the_cpu_bit_for_bit() {
        let images = random(1, &[2, 3, 16, 32]);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (gradient, bins, cell, window) in [
            (HogGradient::Sobel, 9, 8, None),
            (HogGradient::Sobel, 8, 4, Some(16)),
            (HogGradient::Central, 9, 8, None),
            (HogGradient::Central, 1, 16, None),
        ] {
            let filter = HogFilter {
                gradient,
                bins,
                cell,
                window,
            };
            let want = flat(&hog(&images, filter).unwrap());
            let device = gpu();
            let before = launches();
            let got = hog(&images.to_device(device).unwrap(), filter).unwrap();
            assert_eq!((flat(&got), launches()), (want.clone(), before + 1));
        }
    }
}
