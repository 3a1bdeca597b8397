//! Fits relative position tables to another window or grid.

use candle_core::{DType, Tensor};

use crate::{Error, PatchGrid, Result};

/// Resizes a table `[(2 rows - 1)(2 cols - 1) + extra, heads]` made for windows (or grids) of
/// `from` tokens to windows of `to`.
///
/// The new distances are whole numbers. The old ones are placed at geometrically growing distances
/// over the same range: near ones stay close, far ones spread out. An interpolating bicubic spline
/// (not-a-knot) is evaluated between them, and beyond its ends. The `extra` rows at the end (three
/// with a class token) are kept, and a table of the same size is returned unchanged. SimMIM and BEiT; microsoft/SimMIM
/// @ d3e29bc, `utils.py`.
///
/// # Errors
///
/// [`Error::Shape`] if the table does not hold the rows of `from`, or a grid is empty.
pub fn resize_rel_pos_bias(
    table: &Tensor,
    from: PatchGrid,
    to: PatchGrid,
    extra: usize,
) -> Result<Tensor> {
    let sides =
        |grid: PatchGrid| [grid.rows, grid.cols].map(|tokens| (2 * tokens).saturating_sub(1));
    let ([from_rows, from_cols], [to_rows, to_cols]) = (sides(from), sides(to));
    let (rows, heads) = table.dims2()?;
    if rows != from_rows * from_cols + extra || from.len() == 0 || to.len() == 0 {
        return Err(Error::shape(
            "relative position table",
            format!(
                "(2 * {} - 1)(2 * {} - 1) + {extra} rows, to be made for {to}",
                from.rows, from.cols
            ),
            table.dims(),
            "give the window or grid that the table was made for",
        ));
    }
    if from == to {
        return Ok(table.clone());
    }
    let values: Vec<f32> = table.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let (vertical, horizontal) = (readings(from_rows, to_rows), readings(from_cols, to_cols));
    let mut resized = Vec::with_capacity((to_rows * to_cols + extra) * heads);
    for by_row in &vertical {
        for by_col in &horizontal {
            for head in 0..heads {
                let mut sum = 0f64;
                for (y, row) in by_row.iter().enumerate() {
                    for (x, col) in by_col.iter().enumerate() {
                        sum += row * col * f64::from(values[(y * from_cols + x) * heads + head]);
                    }
                }
                #[expect(clippy::cast_possible_truncation, reason = "the table is f32")]
                resized.push(sum as f32);
            }
        }
    }
    resized.extend_from_slice(&values[from_rows * from_cols * heads..]);
    let shape = (to_rows * to_cols + extra, heads);
    Ok(Tensor::from_vec(resized, shape, table.device())?)
}

/// For each of the `to` new distances on an axis, the weights of the `from` old ones.
fn readings(from: usize, to: usize) -> Vec<Vec<f64>> {
    let knots = knots(from, to);
    let curvatures = curvatures(&knots);
    let last = (to / 2) as f64;
    let place = |index: usize| (index as f64 - last).clamp(knots[0], knots[from - 1]);
    (0..to)
        .map(|index| reading(&knots, &curvatures, place(index)))
        .collect()
}

/// Positions of the old distances among the new ones: 0, +-1, +-(1 + q), +-(1 + q + q^2), ...
///
/// `q` is found by bisection in (1.01, 1.5), so that the last position is the largest new distance.
fn knots(from: usize, to: usize) -> Vec<f64> {
    const PRECISION: f64 = 1e-6;
    let (steps, largest) = (from / 2, (to / 2) as f64);
    let distances = |q: f64| -> Vec<f64> {
        let powers = std::iter::successors(Some(1f64), |power| Some(power * q));
        let sums = powers.scan(0f64, |sum, power| {
            *sum += power;
            Some(*sum)
        });
        sums.take(steps).collect()
    };
    let (mut low, mut high, mut q) = (1.01f64, 1.5f64, 1.01f64);
    while high - low > PRECISION {
        q = f64::midpoint(low, high);
        match distances(q).last().is_some_and(|far| *far > largest) {
            true => high = q,
            false => low = q,
        }
    }
    let right = distances(q);
    let left = right.iter().rev().map(|far| -far);
    left.chain([0.]).chain(right.iter().copied()).collect()
}

/// The second derivatives of the spline at its knots, as a matrix `[knots, knots]` on the values.
///
/// Not-a-knot: the third derivative is continuous at the second and the second-last knot. Three
/// knots give a parabola, one knot a constant.
fn curvatures(knots: &[f64]) -> Vec<Vec<f64>> {
    let count = knots.len();
    if count < 3 {
        return vec![vec![0.; count]; count];
    }
    let step = |i: usize| knots[i + 1] - knots[i];
    // The left half holds the equations, the right half their right-hand sides.
    let mut system = vec![vec![0f64; 2 * count]; count];
    for i in 1..count - 1 {
        let (before, after) = (step(i - 1), step(i));
        system[i][i - 1] = before;
        system[i][i] = 2. * (before + after);
        system[i][i + 1] = after;
        system[i][count + i - 1] = 6. / before;
        system[i][count + i] = -6. / before - 6. / after;
        system[i][count + i + 1] = 6. / after;
    }
    for (row, first, sign) in [(0, 0, 1.), (count - 1, count - 3, -1.)] {
        let (before, after) = match count {
            // One inner knot would give one condition twice, so the second one demands a constant second derivative.
            3 if sign > 0. => (0., 1.),
            3 => (1., 0.),
            _ => (step(first), step(first + 1)),
        };
        system[row][first] = after;
        system[row][first + 1] = -before - after;
        system[row][first + 2] = before;
    }
    eliminate(&mut system);
    system
        .into_iter()
        .map(|row| row[count..].to_vec())
        .collect()
}

/// Turns the left half of `[n, 2 n]` into the identity matrix (Gauss-Jordan with partial pivoting).
pub(super) fn eliminate(system: &mut [Vec<f64>]) {
    let count = system.len();
    for column in 0..count {
        let size = |row: &usize| system[*row][column].abs();
        let pivot = (column..count).max_by(|a, b| size(a).total_cmp(&size(b)));
        system.swap(column, pivot.unwrap_or(column));
        let mut row = std::mem::take(&mut system[column]);
        let scale = row[column];
        row.iter_mut().for_each(|value| *value /= scale);
        for other in system.iter_mut().filter(|other| !other.is_empty()) {
            let factor = other[column];
            for (value, pivot) in other.iter_mut().zip(&row) {
                *value -= factor * pivot;
            }
        }
        system[column] = row;
    }
}

/// The weights of the knot values in the spline at `x`, between the first and the last knot.
fn reading(knots: &[f64], curvatures: &[Vec<f64>], x: f64) -> Vec<f64> {
    let count = knots.len();
    if count < 2 {
        return vec![1.; count];
    }
    let left = knots.partition_point(|knot| *knot <= x).clamp(1, count - 1) - 1;
    let width = knots[left + 1] - knots[left];
    let near = (knots[left + 1] - x) / width;
    let far = 1. - near;
    let bend = |part: f64| (part.powi(3) - part) * width * width / 6.;
    let mut weights: Vec<f64> = (0..count)
        .map(|i| bend(near) * curvatures[left][i] + bend(far) * curvatures[left + 1][i])
        .collect();
    weights[left] += near;
    weights[left + 1] += far;
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn old_distances_span_the_new_ones() {
        let knots = knots(11, 13);
        assert_eq!(knots.len(), 11);
        assert_eq!((knots[5], knots[6]), (0., 1.));
        assert!((knots[10] - 6.).abs() < 1e-4 && (knots[0] + 6.).abs() < 1e-4);
        // If no q fits, the bisection ends at an end of its range.
        assert!((self::knots(7, 11)[6] - 4.75).abs() < 1e-4);
        assert!(self::knots(13, 5)[12] > 6.);
    }

    #[test]
    fn the_spline_is_exact_for_cubics_and_passes_through_its_knots() {
        for count in [3usize, 5, 7] {
            let knots = knots(count, 2 * count - 1);
            let degree = i32::try_from(count.min(4) - 1).unwrap();
            let curve = |x: f64| x.powi(degree) - 2. * x + 1.;
            let curvatures = curvatures(&knots);
            let at = |x: f64| -> f64 {
                let weights = reading(&knots, &curvatures, x);
                weights
                    .iter()
                    .zip(&knots)
                    .map(|(w, knot)| w * curve(*knot))
                    .sum()
            };
            for x in knots.iter().copied().chain([-0.9, 0.3, 0.99]) {
                assert!((at(x) - curve(x)).abs() < 1e-9, "{count} knots at {x}");
            }
        }
    }

    #[test]
    fn constants_and_extra_rows_are_kept_and_axes_are_separate() {
        let table = |rows: usize, cols: usize| {
            let values: Vec<f32> = (0..rows * cols).map(|i| (i % cols) as f32).collect();
            Tensor::from_vec(values, (rows * cols, 1), &Device::Cpu).unwrap()
        };
        let extra = Tensor::new(&[[7f32], [8.], [9.]], &Device::Cpu).unwrap();
        let both = Tensor::cat(&[table(3, 5), extra], 0).unwrap();
        let (from, to) = (PatchGrid::new(2, 3), PatchGrid::new(4, 3));
        let resized = resize_rel_pos_bias(&both, from, to, 3).unwrap();
        let values: Vec<f32> = resized.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(values.len(), 7 * 5 + 3);
        assert_eq!(values[35..], [7., 8., 9.]);
        // The columns are unchanged, for every row.
        for (i, value) in values[..35].iter().enumerate() {
            assert!((value - (i % 5) as f32).abs() < 0.05, "{i}: {value}");
        }
        let one = resize_rel_pos_bias(&table(1, 1), PatchGrid::new(1, 1), to, 0).unwrap();
        assert_eq!(one.dims(), [35, 1]);
        assert!(resize_rel_pos_bias(&both, to, from, 3).is_err());
    }
}
