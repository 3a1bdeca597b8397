//! How much of an operand fits the cache of a core.

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Assumed where the CPU does not tell.
const USUAL: usize = 1 << 20;

/// Bytes of a core's L2 cache.
pub(in crate::matmul) fn l2() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    // Leaf of the cache parameters: of Intel, and of AMD.
    *BYTES.get_or_init(|| {
        [0x4, 0x8000_001d]
            .into_iter()
            .find_map(of_leaf)
            .unwrap_or(USUAL)
    })
}

/// The L2 cache's size, from a list of caches in this leaf.
fn of_leaf(leaf: u32) -> Option<usize> {
    if leaf > __cpuid_count(leaf & 0x8000_0000, 0).eax {
        return None;
    }
    let caches = (0..8).map(|index| __cpuid_count(leaf, index));
    // Type 0 ends the list; an instruction cache has type 2.
    let mut caches = caches.take_while(|cache| cache.eax & 0x1f != 0);
    let cache = caches.find(|cache| cache.eax & 0x1f != 2 && cache.eax >> 5 & 0x7 == 2)?;
    let field = |low: u32, bits: u32| (cache.ebx >> low & ((1 << bits) - 1)) as usize + 1;
    let [line, partitions, ways] = [field(0, 12), field(12, 10), field(22, 10)];
    Some(line * partitions * ways * (cache.ecx as usize + 1))
}

/// Panels of `len` packed values that fit these bytes.
pub(super) fn panels(bytes: usize, len: usize) -> usize {
    (bytes / (len * size_of::<u32>())).max(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_has_a_plausible_size() {
        assert!((1 << 17..1 << 28).contains(&l2()), "{}", l2());
    }

    #[test]
    fn shallow_panels_leave_room_for_more() {
        assert!(panels(1 << 20, 32 * 64) > panels(1 << 20, 32 * 512));
        assert_eq!(panels(1 << 20, 1 << 30), 4);
    }
}
