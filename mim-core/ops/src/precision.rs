//! The precision of matrix products.

use std::cell::Cell;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Dtype of the operands of matrix products. Sums, all other arithmetic and all parameters are f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Operands rounded to bfloat16 (8 significant bits). About twice as fast on CPUs with bfloat16 instructions
    /// (`avx512_bf16`, AMX); elsewhere the same numbers at the speed of f32. CUDA devices use their tensor cores,
    /// and blocks also store values for the backward pass as bf16.
    Bf16,
}

impl Precision {
    /// Checks that products on this device support the precision.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for [`Precision::Bf16`] on devices other than CPU and CUDA.
    pub fn check(self, device: &Device) -> Result<()> {
        if self == Self::F32 || device.is_cpu() || device.is_cuda() {
            return Ok(());
        }
        Err(Error::unsupported(
            "precision = \"bf16\"",
            "only CPU and CUDA devices support it",
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
                "it is not a known precision",
                "use f32 or bf16",
            )),
        }
    }
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// Restores the previous value on drop, even after a panic.
struct Scope(Precision);

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Runs `work`, forward and backward passes, with matrix products of this precision.
///
/// It applies to this thread, and to the tasks that operations called on it run on other threads.
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
    fn applies_only_inside() {
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
