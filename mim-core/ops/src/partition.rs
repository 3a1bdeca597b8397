//! Partition of rows into tasks: by size alone, never by the number of threads.

/// Values per task: 64 KiB of f32, large against the cost of starting a task.
const TASK: usize = 16 * 1024;

/// Maximum number of partial results in a reduction over rows.
const PARTIALS: usize = 64;

/// Rows of `width` values per task, for row-wise operations.
pub(super) fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Rows of `width` values per partial result, for a reduction over all `rows`.
pub(super) fn rows_per_partial(rows: usize, width: usize) -> usize {
    rows_per_task(width).max(rows.div_ceil(PARTIALS))
}

/// Sums partial results of `width` values each, in order.
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
