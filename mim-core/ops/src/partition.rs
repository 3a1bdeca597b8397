//! How rows are shared out: by size alone, never by the number of threads.

/// Values a task should handle: 64 KiB of f32, large against the cost of starting a task.
const TASK: usize = 16 * 1024;

/// Most partial results a reduction over rows keeps.
const PARTIALS: usize = 64;

/// Rows of `width` values in one task of an operation that treats each row alone.
pub(super) fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Rows of `width` values that share one partial result of a reduction over all `rows`.
pub(super) fn rows_per_partial(rows: usize, width: usize) -> usize {
    rows_per_task(width).max(rows.div_ceil(PARTIALS))
}

/// Adds partial results of `width` values each, in their order.
pub(super) fn add_partials(partials: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0f32; width];
    for partial in partials.chunks(width.max(1)) {
        for (sum, value) in total.iter_mut().zip(partial) {
            *sum += value;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded() {
        assert_eq!(rows_per_task(768), 21);
        assert_eq!(rows_per_task(1 << 20), 1);
        assert_eq!(rows_per_partial(100, 768), 21);
        assert_eq!(rows_per_partial(6400, 768), 100);
        assert_eq!(add_partials(&[1., 2., 3., 4.], 2), [4., 6.]);
    }
}
