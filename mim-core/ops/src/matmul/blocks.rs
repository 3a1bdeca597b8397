//! Sizes of the blocks of a product.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Error, Result};

/// How blocked matrix products are split, so that blocks fit the cache of a core. It changes their speed, never their values.
///
/// By default the sizes follow the L2 cache that the CPU reports. `mim bench op matmul --tune` tries others. Only kernels for
/// AVX-512 and AMX use blocks.
///
/// ```
/// use mim_ops::MatmulBlocks;
///
/// let blocks: MatmulBlocks = "512,256,4".parse()?;
/// assert_eq!((blocks.rows, blocks.parts), (512 << 10, 4));
/// blocks.apply();
/// assert_eq!(MatmulBlocks::current(), blocks);
/// # MatmulBlocks::of_this_cpu().apply();
/// # Ok::<(), mim_ops::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatmulBlocks {
    /// Bytes of packed rows of the left operand that are in use at a time.
    pub rows: usize,
    /// Bytes of packed columns of the right operand that are in use at a time.
    pub cols: usize,
    /// Parts per thread of a large product. More parts even out threads of different speed.
    pub parts: usize,
}

/// The sizes in use; 0 stands for the default.
static IN_USE: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

/// Bytes of an L2 cache, if the CPU does not tell.
#[cfg(not(target_arch = "x86_64"))]
const USUAL: usize = 1 << 20;

impl MatmulBlocks {
    /// The sizes for this CPU: rows take half of the L2 cache, columns a quarter. The rest is for the result.
    pub fn of_this_cpu() -> Self {
        #[cfg(target_arch = "x86_64")]
        let l2 = super::blocked::l2();
        #[cfg(not(target_arch = "x86_64"))]
        let l2 = USUAL;
        Self {
            rows: l2 / 2,
            cols: l2 / 4,
            parts: 4,
        }
    }

    /// The sizes in use.
    pub fn current() -> Self {
        let usual = Self::of_this_cpu();
        let [rows, cols, parts] = [0, 1, 2].map(|index: usize| {
            let set = IN_USE[index].load(Ordering::Relaxed);
            match set {
                0 => [usual.rows, usual.cols, usual.parts][index],
                _ => set,
            }
        });
        Self { rows, cols, parts }
    }

    /// Uses these sizes for all products from now on, on all threads. A size of 0 is the default.
    pub fn apply(self) {
        for (place, size) in IN_USE.iter().zip([self.rows, self.cols, self.parts]) {
            place.store(size, Ordering::Relaxed);
        }
    }
}

/// Rows and columns in KiB, then parts, as in `512,256,4`.
impl fmt::Display for MatmulBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.rows >> 10, self.cols >> 10, self.parts)
    }
}

impl FromStr for MatmulBlocks {
    type Err = Error;

    /// Reads what [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] unless these are three numbers: KiB from 1 to 1 GiB, and 1 to 64 parts.
    fn from_str(text: &str) -> Result<Self> {
        let numbers: Vec<usize> = text
            .split(',')
            .map_while(|number| number.trim().parse().ok())
            .collect();
        match numbers[..] {
            [rows @ 1..=0x10_0000, cols @ 1..=0x10_0000, parts @ 1..=64]
                if text.split(',').count() == 3 =>
            {
                Ok(Self {
                    rows: rows << 10,
                    cols: cols << 10,
                    parts,
                })
            }
            _ => Err(Error::argument(
                "matmul",
                "blocks",
                text,
                "it is not KiB of rows, KiB of columns and parts per thread",
                format!("write them as {}", Self::of_this_cpu()),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_they_are_written() {
        let usual = MatmulBlocks::of_this_cpu();
        assert_eq!(usual.to_string().parse::<MatmulBlocks>().unwrap(), usual);
        for wrong in [
            "",
            "1,2",
            "1,2,3,4",
            "0,1,1",
            "1,1,65",
            "1,x,1",
            "2000000,1,1",
        ] {
            let error = wrong.parse::<MatmulBlocks>().unwrap_err().to_string();
            assert!(error.contains("write them as"), "{error}");
        }
    }
}
