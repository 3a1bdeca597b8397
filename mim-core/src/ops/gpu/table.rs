//! Work on many tensors in one launch.

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{Device, Result, Tensor};

use super::{Arg, Grid, Kernel, launch, no_kernels};

/// Where the values of a contiguous tensor begin, for kernels that find it in memory.
pub(in crate::ops) fn address(tensor: &Tensor) -> Result<i64> {
    let address: Result<u64> = match tensor.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => super::cuda::tensor_address(tensor),
        device => Err(no_kernels("an address", device)),
    };
    address.map(u64::cast_signed)
}

/// Two f32 numbers as they follow each other in memory.
pub(in crate::ops) fn pair(first: f32, second: f32) -> i64 {
    let bits = u64::from(first.to_bits()) | u64::from(second.to_bits()) << 32;
    bits.cast_signed()
}

/// The tensors of a launch, as `tensors.cuh` has them, and the parts of them that blocks do.
///
/// It is copied to the device for each launch: some 100 bytes a tensor and 8 bytes for 8192 values.
#[derive(Debug, Default)]
pub(in crate::ops) struct Table {
    words: Vec<i64>,
    chunks: Vec<i64>,
    /// Chunks before each tensor.
    starts: Vec<usize>,
}

impl Table {
    /// Values of a chunk.
    const SIZE: usize = 8192;

    /// Adds a tensor of so many values, described by the words of the kernel's structure.
    pub(in crate::ops) fn push(&mut self, words: &[i64], values: usize) {
        let tensor = self.starts.len() as i64;
        self.starts.push(self.chunks.len());
        self.words.extend(words);
        let chunks = values.div_ceil(Self::SIZE) as i64;
        // Two 32-bit numbers: the tensor and the chunk of it.
        self.chunks
            .extend((0..chunks).map(|chunk| tensor | chunk << 32));
    }

    /// Launches a kernel that takes the table, and what comes after it.
    ///
    /// # Safety
    ///
    /// As [`launch()`]; the words must be those of the kernel's structure, with addresses of live tensors.
    pub(in crate::ops) unsafe fn launch(
        self,
        device: &Device,
        kernel: &Kernel,
        more: Vec<Arg<'_>>,
    ) -> Result<()> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let grid = Grid::line(self.chunks.len(), Grid::THREADS);
        let (words, chunks) = (
            Tensor::new(self.words, device)?,
            Tensor::new(self.chunks, device)?,
        );
        let mut args = vec![
            Arg::Read(&words),
            Arg::Read(&chunks),
            Arg::Count(Self::SIZE),
        ];
        args.extend(more);
        // SAFETY: the caller's promise.
        unsafe { launch(device, kernel, grid, &mut args) }
    }

    /// The chunks of each tensor, for a kernel that gives a number for each.
    pub(in crate::ops) fn ranges(&self) -> Vec<std::ops::Range<usize>> {
        let ends = self.starts.iter().skip(1).copied();
        let ends = ends.chain([self.chunks.len()]);
        self.starts.iter().zip(ends).map(|(a, b)| *a..b).collect()
    }

    pub(in crate::ops) fn chunks(&self) -> usize {
        self.chunks.len()
    }
}
