//! Gradient buckets for all-reduce.

use std::ops::Range;

/// Maximum values per bucket: 25 MB of f32, as in PyTorch. Large enough that the start-up cost of a message is
/// negligible, small enough that the copies take little memory. Tests use less.
const VALUES: usize = if cfg!(test) { 16 } else { 25 << 18 };

/// Groups neighbours into buckets of at most [`VALUES`] values; a larger tensor gets its own bucket.
pub(super) fn buckets(sizes: &[usize]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut filled = 0;
    for (at, size) in sizes.iter().enumerate() {
        match found.last_mut() {
            Some(last) if filled + size <= VALUES => {
                last.end = at + 1;
                filled += size;
            }
            _ => {
                found.push(at..at + 1);
                filled = *size;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_bucket_until_it_is_full() {
        let half = VALUES / 2;
        assert!(buckets(&[]).is_empty());
        assert_eq!(buckets(&[half, half, 1, half]), [0..2, 2..4]);
        assert_eq!(buckets(&[1, VALUES + 1, 1]), [0..1, 1..2, 2..3]);
    }
}
