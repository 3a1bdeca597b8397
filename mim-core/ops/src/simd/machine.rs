//! What the processor has, and how much of it may be used.

use std::sync::LazyLock;

/// Instructions that there is code for; each set comes with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Instructions {
    /// Those of every processor of its kind.
    Portable,
    /// With fused multiply-add.
    Avx2,
    /// F, BW, DQ and VL.
    Avx512,
    /// With products of bfloat16.
    Avx512Bf16,
    /// Tiles of bfloat16.
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

    /// Whether `MIM_CPU` lets them be used; the machine need not have them.
    #[inline]
    pub(crate) fn allowed(self) -> bool {
        static MOST: LazyLock<Instructions> = LazyLock::new(most);
        self <= *MOST
    }
}

/// What `MIM_CPU` says.
fn most() -> Instructions {
    let Some(name) = std::env::var_os("MIM_CPU") else {
        return Amx;
    };
    Instructions::called(&name.to_string_lossy()).unwrap_or_else(|| {
        let names = Instructions::NAMES.map(|(name, _)| name).join(", ");
        tracing::warn!("MIM_CPU is {name:?}, not one of {names}: all instructions are used");
        Amx
    })
}

/// Whether AVX2 and fused multiply-add are there.
#[inline]
pub(crate) fn has_avx2() -> bool {
    Avx2.allowed()
        && std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
}

/// Whether the AVX-512 subsets are there that `multiversion` compiles for.
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
    fn names_go_from_less_to_more() {
        assert!(Instructions::NAMES.is_sorted_by_key(|(_, instructions)| *instructions));
        assert_eq!(Instructions::called("avx2"), Some(Avx2));
        assert_eq!(Instructions::called("AVX2"), None);
        assert!(Portable.allowed());
    }
}
