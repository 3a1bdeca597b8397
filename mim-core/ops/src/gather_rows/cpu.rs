//! f32 kernels of row gathering, without unsafe code.

use rayon::prelude::*;

use crate::partition::rows_per_task;

/// Rows `ids` of `xs`; every id must be below the number of rows.
pub(super) fn forward(xs: &[f32], ids: &[u32], width: usize) -> Vec<f32> {
    let mut ys = vec![0f32; ids.len() * width];
    let task = rows_per_task(width);
    ys.par_chunks_mut(task * width)
        .zip(ids.par_chunks(task))
        .for_each(|(ys, ids)| {
            for (y, &id) in ys.chunks_exact_mut(width).zip(ids) {
                y.copy_from_slice(&xs[id as usize * width..][..width]);
            }
        });
    ys
}

/// Adds each row of `grad` to row `ids` of a zero `[rows, width]`.
///
/// Each result row is computed by one task, which adds its sources in order.
pub(super) fn backward(grad: &[f32], ids: &[u32], rows: usize, width: usize) -> Vec<f32> {
    let (starts, sources) = sources_by_row(ids, rows);
    let mut dx = vec![0f32; rows * width];
    let task = rows_per_task(width);
    dx.par_chunks_mut(task * width)
        .enumerate()
        .for_each(|(chunk, dx)| {
            for (row, out) in (chunk * task..).zip(dx.chunks_exact_mut(width)) {
                for &source in &sources[starts[row]..starts[row + 1]] {
                    let from = &grad[source * width..][..width];
                    for (out, g) in out.iter_mut().zip(from) {
                        *out += g;
                    }
                }
            }
        });
    dx
}

/// Positions in `ids` grouped by row id, and the bounds of each row's group.
fn sources_by_row(ids: &[u32], rows: usize) -> (Vec<usize>, Vec<usize>) {
    let mut starts = vec![0usize; rows + 1];
    for &id in ids {
        starts[id as usize + 1] += 1;
    }
    for row in 0..rows {
        starts[row + 1] += starts[row];
    }
    let mut next = starts.clone();
    let mut sources = vec![0usize; ids.len()];
    for (source, &id) in ids.iter().enumerate() {
        let place = &mut next[id as usize];
        sources[*place] = source;
        *place += 1;
    }
    (starts, sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_the_order_of_the_ids() {
        let (starts, sources) = sources_by_row(&[2, 0, 2, 3], 5);
        assert_eq!(starts, [0, 1, 1, 3, 4, 4]);
        assert_eq!(sources, [1, 0, 2, 3]);
    }
}
