//! In which numbers matrix products are computed.

use std::cell::Cell;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Type of the operands of matrix products; their sums, all other arithmetic and all parameters are f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Operands rounded to bfloat16 (8 significant bits): about twice as fast where the CPU has instructions
    /// for it (`avx512_bf16`, AMX), and the same numbers, not faster, elsewhere. On CUDA devices the tensor cores
    /// take them, and what a block keeps for its backward pass is bf16 as well.
    Bf16,
}

impl Precision {
    /// Whether products on this device can have the precision.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for [`Precision::Bf16`] anywhere but on CPU and CUDA.
    pub fn check(self, device: &Device) -> Result<()> {
        if self == Self::F32 || device.is_cpu() || device.is_cuda() {
            return Ok(());
        }
        Err(Error::unsupported(
            "precision = \"bf16\"",
            "it is there for CPU and CUDA devices only",
            "use f32, or --device cpu",
        ))
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(Error::argument(
                "train",
                "precision",
                name,
                "no such type",
                "use f32 or bf16",
            )),
        }
    }
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// Puts back what was set before, whatever happens in between.
struct Scope(Precision);

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Runs `work`, forward and backward passes alike, with matrix products of this precision.
///
/// It holds on this thread, and for what the operations called on it do on others.
pub fn with_precision<R>(precision: Precision, work: impl FnOnce() -> R) -> R {
    let _scope = Scope(CURRENT.replace(precision));
    work()
}

/// The precision that [`with_precision`] set on this thread.
pub(super) fn precision() -> Precision {
    CURRENT.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_inside_only() {
        with_precision(Precision::Bf16, || {
            assert_eq!(precision(), Precision::Bf16);
            with_precision(Precision::F32, || assert_eq!(precision(), Precision::F32));
            assert_eq!(precision(), Precision::Bf16);
        });
        let panics = std::panic::catch_unwind(|| {
            with_precision(Precision::Bf16, || -> () { panic!("inside") })
        });
        assert!(panics.is_err());
        assert_eq!(precision(), Precision::F32);
    }
}
