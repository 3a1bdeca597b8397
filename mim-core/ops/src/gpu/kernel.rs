//! Kernels, the grids they run on, and their arguments.

use candle_core::{Result, Tensor, bail};

use super::Buffer;

/// A kernel: its file, without `.cu`, and its name.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(super) file: &'static str,
    pub(super) name: String,
}

impl Kernel {
    pub(crate) fn new(file: &'static str, name: impl Into<String>) -> Self {
        let name = name.into();
        Self { file, name }
    }
}

/// Number of blocks, threads per block, and bytes of shared memory per block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) blocks: [usize; 3],
    pub(crate) threads: [u32; 3],
    pub(crate) shared: usize,
}

impl Grid {
    /// Default number of threads per block.
    pub(crate) const THREADS: u32 = 256;

    /// A one-dimensional grid.
    pub(crate) fn line(blocks: usize, threads: u32) -> Self {
        Self {
            blocks: [blocks, 1, 1],
            threads: [threads, 1, 1],
            shared: 0,
        }
    }

    /// One thread per value.
    pub(crate) fn each(values: usize) -> Self {
        Self::line(values.div_ceil(Self::THREADS as usize), Self::THREADS)
    }

    pub(super) fn blocks(&self) -> Result<[u32; 3]> {
        let [x, y, z] = self.blocks.map(u32::try_from);
        match (x, y, z) {
            (Ok(x), Ok(y), Ok(z)) if y < 1 << 16 && z < 1 << 16 => Ok([x, y, z]),
            _ => bail!(
                "a grid of {:?} blocks exceeds the limits of a GPU",
                self.blocks
            ),
        }
    }
}

/// An argument of a kernel.
pub(crate) enum Arg<'a> {
    /// A pointer to the values of a contiguous tensor.
    Read(&'a Tensor),
    /// A pointer into the values of a contiguous tensor, from this index on.
    ReadAt(&'a Tensor, usize),
    /// As [`Arg::Read`], or a null pointer.
    Maybe(Option<&'a Tensor>),
    /// A pointer to memory that the kernel fills.
    Write(&'a mut Buffer),
    /// As [`Arg::Write`], or a null pointer.
    MaybeWrite(Option<&'a mut Buffer>),
    /// A pointer to the values of a contiguous tensor, updated in place.
    Change(&'a Tensor),
    /// As [`Arg::Change`], from this index on.
    ChangeAt(&'a Tensor, usize),
    /// An `int`.
    Count(usize),
    /// A `long long`.
    Long(usize),
    /// A `float`.
    Float(f32),
    /// A `double`.
    Double(f64),
}

/// The 8 bytes of a number as a kernel reads it, on a little-endian machine.
#[cfg(feature = "cuda")]
pub(super) fn number(arg: &Arg<'_>) -> Result<u64> {
    let int = |count: usize| match i32::try_from(count) {
        Ok(count) => Ok(u64::from(count.cast_unsigned())),
        Err(_) => bail!("{count} is too large for a kernel: use smaller batches"),
    };
    match *arg {
        Arg::Count(count) => int(count),
        Arg::Long(count) => Ok(count as u64),
        Arg::Float(x) => Ok(u64::from(x.to_bits())),
        Arg::Double(x) => Ok(x.to_bits()),
        _ => Ok(0),
    }
}
