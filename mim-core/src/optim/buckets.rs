//! How gradients are cut into messages.

use std::ops::Range;

/// Values of a message: 25 MB of f32, as in PyTorch. Large enough that starting it costs nothing beside sending
/// it, small enough that copies of it stay a small part of the memory of all gradients. Tests make do with less.
const VALUES: usize = if cfg!(test) { 16 } else { 25 << 18 };

/// Runs of neighbours of at most [`VALUES`] values together; a larger one stays alone.
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
    fn neighbours_share_a_message_until_it_is_full() {
        let half = VALUES / 2;
        assert!(buckets(&[]).is_empty());
        assert_eq!(buckets(&[half, half, 1, half]), [0..2, 2..4]);
        assert_eq!(buckets(&[1, VALUES + 1, 1]), [0..1, 1..2, 2..3]);
    }
}
