//! Instruction sets of the CPU, and which of them may be used.

use std::sync::LazyLock;

/// Instruction sets with their own code; each includes the previous ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Instructions {
    /// The baseline of the architecture.
    Portable,
    /// Including fused multiply-add.
    Avx2,
    /// F, BW, DQ and VL.
    Avx512,
    /// Including bfloat16 products.
    Avx512Bf16,
    /// bfloat16 tiles.
    Amx,
}

use Instructions::{Amx, Avx2, Avx512, Avx512Bf16, Portable};

impl Instructions {
    const NAMES: [(&str, Self); 5] = [
        ("portable", Portable),
        ("avx2", Avx2),
        ("avx512", Avx512),
        ("avx512_bf16", Avx512Bf16),
        ("amx", Amx),
    ];

    fn called(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(own, _)| *own == name);
        found.map(|(_, instructions)| *instructions)
    }

    /// Whether `MIM_CPU` allows them; the CPU need not support them.
    #[inline]
    pub(crate) fn allowed(self) -> bool {
        static MOST: LazyLock<Instructions> = LazyLock::new(most);
        self <= *MOST
    }
}

/// The limit set by `MIM_CPU`.
fn most() -> Instructions {
    let Some(name) = std::env::var_os("MIM_CPU") else {
        return Amx;
    };
    Instructions::called(&name.to_string_lossy()).unwrap_or_else(|| {
        let names = Instructions::NAMES.map(|(name, _)| name).join(", ");
        tracing::warn!("MIM_CPU is {name:?}, which is not one of {names}; it is ignored");
        Amx
    })
}

/// Whether AVX2 and fused multiply-add are available.
#[inline]
pub(crate) fn has_avx2() -> bool {
    Avx2.allowed()
        && std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
}

/// Whether the AVX-512 subsets that `multiversion` compiles for are available.
#[inline]
pub(crate) fn has_avx512() -> bool {
    Avx512.allowed()
        && std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512vl")
}

/// Whether AVX-512 can also multiply bfloat16.
#[inline]
pub(crate) fn has_avx512_bf16() -> bool {
    Avx512Bf16.allowed() && has_avx512() && std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_sets_are_ordered() {
        assert!(Instructions::NAMES.is_sorted_by_key(|(_, instructions)| *instructions));
        assert_eq!(Instructions::called("avx2"), Some(Avx2));
        assert_eq!(Instructions::called("AVX2"), None);
        assert!(Portable.allowed());
    }
}
