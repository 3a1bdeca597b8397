//! Random streams as pure functions of their purpose and the training step.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Purpose of a random stream; streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights; the position is a hash of the parameter's name.
    Init = 1,
    /// The order of samples; the position is the epoch.
    Shuffle = 2,
    /// Augmentation; the position is (epoch, sample index), for any number of workers.
    Augment = 3,
    /// Masks.
    Mask = 4,
    /// Stochastic depth.
    DropPath = 5,
    /// Draws that a method makes itself.
    Method = 6,
    /// Images held out of a data set.
    Split = 7,
    /// Dropout of single values.
    Dropout = 8,
    /// Samples of a bootstrap.
    Bootstrap = 9,
}

/// The ChaCha8 stream of (seed, purpose, position).
pub fn stream(seed: u64, purpose: Purpose, position: [u64; 2]) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, word) in key
        .chunks_mut(8)
        .zip([seed, purpose as u64, position[0], position[1]])
    {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// FNV-1a, a hash of names that never changes between versions or machines.
pub fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_differ_by_every_part_of_their_key_and_repeat() {
        let first = |seed, purpose, position| stream(seed, purpose, position).next_u64();
        let base = first(1, Purpose::Mask, [2, 3]);
        assert_eq!(base, first(1, Purpose::Mask, [2, 3]));
        for other in [
            first(2, Purpose::Mask, [2, 3]),
            first(1, Purpose::Augment, [2, 3]),
            first(1, Purpose::Mask, [3, 3]),
            first(1, Purpose::Mask, [2, 4]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn name_hash_is_fnv1a() {
        assert_eq!(name_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(name_hash("a"), 0xaf63_dc4c_8601_ec8c);
    }
}
