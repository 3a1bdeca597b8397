//! One launch over many tensors.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{Device, Result, Tensor};

use super::{Arg, Grid, Kernel, launch, no_kernels};
use crate::device_copy::send;

/// Device address of a contiguous tensor, for kernels that read it from a table.
pub(crate) fn address(tensor: &Tensor) -> Result<i64> {
    let address: Result<u64> = match tensor.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => super::cuda::tensor_address(tensor),
        device => Err(no_kernels("an address", device)),
    };
    address.map(u64::cast_signed)
}

/// Two f32 numbers in consecutive 32-bit halves, as in memory.
pub(crate) fn pair(first: f32, second: f32) -> i64 {
    let bits = u64::from(first.to_bits()) | u64::from(second.to_bits()) << 32;
    bits.cast_signed()
}

/// The tensors of a launch, laid out as in `tensors.cuh`, and their chunks, one per block.
///
/// Each step copies it to the device: about 100 bytes per tensor and 8 bytes per 8192 values.
#[derive(Debug, Default)]
pub(crate) struct Table {
    words: Vec<i64>,
    chunks: Vec<i64>,
    tensors: usize,
}

/// A table in device memory.
pub(crate) struct Placed {
    words: Tensor,
    chunks: Tensor,
    tensors: usize,
}

impl Table {
    /// Values per chunk.
    const SIZE: usize = 8192;

    /// Adds a tensor of `values` values, described by the words of the kernel's struct.
    pub(crate) fn push(&mut self, words: &[i64], values: usize) {
        let tensor = self.tensors as i64;
        self.tensors += 1;
        self.words.extend(words);
        let chunks = values.div_ceil(Self::SIZE) as i64;
        // Two 32-bit numbers: index of the tensor, index of the chunk in it.
        self.chunks
            .extend((0..chunks).map(|chunk| tensor | chunk << 32));
    }

    /// Number of chunks so far: the index of the next tensor's first chunk.
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
    /// Launches a kernel on the table and `more` arguments, one block per chunk.
    ///
    /// # Safety
    ///
    /// As for [`launch()`]; also, the words must follow the kernel's struct, with addresses of live tensors.
    pub(crate) unsafe fn launch(&self, kernel: &Kernel, more: Vec<Arg<'_>>) -> Result<()> {
        let mut args = vec![
            Arg::Read(&self.words),
            Arg::Read(&self.chunks),
            Arg::Count(Table::SIZE),
        ];
        args.extend(more);
        let grid = Grid::line(self.chunks.elem_count(), Grid::THREADS);
        // SAFETY: the caller's contract.
        unsafe { launch(self.words.device(), kernel, grid, &mut args) }
    }

    /// Launches a kernel on the tensors without their chunks and on `more` arguments, one block per
    /// tensor.
    ///
    /// # Safety
    ///
    /// As [`Placed::launch`].
    pub(crate) unsafe fn launch_each(&self, kernel: &Kernel, more: Vec<Arg<'_>>) -> Result<()> {
        let mut args = vec![Arg::Read(&self.words), Arg::Count(Table::SIZE)];
        args.extend(more);
        let grid = Grid::line(self.tensors, Grid::THREADS);
        // SAFETY: the caller's contract.
        unsafe { launch(self.words.device(), kernel, grid, &mut args) }
    }
}
