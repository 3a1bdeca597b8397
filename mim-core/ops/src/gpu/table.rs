//! Work on many tensors in one launch.

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{Device, Result, Tensor};

use super::{Arg, Grid, Kernel, launch, no_kernels};
use crate::device_copy::send;

/// Where the values of a contiguous tensor begin, for kernels that find it in memory.
pub(crate) fn address(tensor: &Tensor) -> Result<i64> {
    let address: Result<u64> = match tensor.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => super::cuda::tensor_address(tensor),
        device => Err(no_kernels("an address", device)),
    };
    address.map(u64::cast_signed)
}

/// Two f32 numbers as they follow each other in memory.
pub(crate) fn pair(first: f32, second: f32) -> i64 {
    let bits = u64::from(first.to_bits()) | u64::from(second.to_bits()) << 32;
    bits.cast_signed()
}

/// The tensors of a launch, as `tensors.cuh` has them, and the parts of them that blocks do.
///
/// It is copied to the device in each step: some 100 bytes a tensor and 8 bytes for 8192 values.
#[derive(Debug, Default)]
pub(crate) struct Table {
    words: Vec<i64>,
    chunks: Vec<i64>,
    tensors: usize,
}

/// A table on its device.
pub(crate) struct Placed {
    words: Tensor,
    chunks: Tensor,
    tensors: usize,
}

impl Table {
    /// Values of a chunk.
    const SIZE: usize = 8192;

    /// Adds a tensor of so many values, described by the words of the kernel's structure.
    pub(crate) fn push(&mut self, words: &[i64], values: usize) {
        let tensor = self.tensors as i64;
        self.tensors += 1;
        self.words.extend(words);
        let chunks = values.div_ceil(Self::SIZE) as i64;
        // Two 32-bit numbers: the tensor and the chunk of it.
        self.chunks
            .extend((0..chunks).map(|chunk| tensor | chunk << 32));
    }

    /// The chunks so far: the place of the next tensor's first one.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Copies the table to the device.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub(crate) fn place(self, device: &Device) -> Result<Placed> {
        let place = |words: Vec<i64>| {
            let count = words.len();
            send(words, count, device)
        };
        Ok(Placed {
            words: place(self.words)?,
            chunks: place(self.chunks)?,
            tensors: self.tensors,
        })
    }
}

impl Placed {
    /// Launches a kernel that takes the table, and what comes after it, with a block for each chunk.
    ///
    /// # Safety
    ///
    /// As [`launch()`]; the words must be those of the kernel's structure, with addresses of live tensors.
    pub(crate) unsafe fn launch(&self, kernel: &Kernel, more: Vec<Arg<'_>>) -> Result<()> {
        let mut args = vec![
            Arg::Read(&self.words),
            Arg::Read(&self.chunks),
            Arg::Count(Table::SIZE),
        ];
        args.extend(more);
        let grid = Grid::line(self.chunks.elem_count(), Grid::THREADS);
        // SAFETY: the caller's promise.
        unsafe { launch(self.words.device(), kernel, grid, &mut args) }
    }

    /// Launches a kernel that takes the tensors without their chunks, and what comes after them, with a block for
    /// each tensor.
    ///
    /// # Safety
    ///
    /// As [`Placed::launch`].
    pub(crate) unsafe fn launch_each(&self, kernel: &Kernel, more: Vec<Arg<'_>>) -> Result<()> {
        let mut args = vec![Arg::Read(&self.words), Arg::Count(Table::SIZE)];
        args.extend(more);
        let grid = Grid::line(self.tensors, Grid::THREADS);
        // SAFETY: the caller's promise.
        unsafe { launch(self.words.device(), kernel, grid, &mut args) }
    }
}
