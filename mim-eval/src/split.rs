//! Selection of training images, class by class.

use mim_core::rng::{Purpose, stream};
use rand::seq::SliceRandom;

use crate::Features;

/// Indices of the training images in random order, separately for each class.
fn by_class(features: &Features, seed: u64, draw: u64) -> Vec<Vec<usize>> {
    let classes = features
        .labels()
        .iter()
        .max()
        .map_or(0, |class| *class as usize + 1);
    let mut rows = vec![Vec::new(); classes];
    for (row, label) in features.labels().iter().enumerate() {
        rows[*label as usize].push(row);
    }
    let mut rng = stream(seed, Purpose::Split, [draw, 0]);
    rows.iter_mut().for_each(|rows| rows.shuffle(&mut rng));
    rows
}

/// A fixed choice of `most` of `count` images, in ascending order; all if there are no more.
pub(crate) fn fixed_choice(count: usize, most: usize) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    let mut rng = stream(0, Purpose::Shuffle, [0, 0]);
    let mut rows = rand::seq::index::sample(&mut rng, count, most).into_vec();
    rows.sort_unstable();
    rows
}

/// The features of these rows.
pub(crate) fn chosen(features: &Features, rows: &[usize]) -> Features {
    let values = rows
        .iter()
        .flat_map(|row| features.row(*row).iter().copied());
    let labels = rows.iter().map(|row| features.labels()[*row]);
    Features::of_parts(values.collect(), features.dim(), labels.collect())
}

/// Draws `count(images)` images of each class, differently for each `draw`; and returns the others, too.
pub(crate) fn of_each_class(
    features: &Features,
    draw: (u64, u64),
    count: impl Fn(usize) -> usize,
) -> (Features, Features) {
    let (first, rest) = rows_of_each_class(features, draw, count);
    (chosen(features, &first), chosen(features, &rest))
}

/// The rows of both parts, ascending.
pub(crate) fn rows_of_each_class(
    features: &Features,
    (seed, draw): (u64, u64),
    count: impl Fn(usize) -> usize,
) -> (Vec<usize>, Vec<usize>) {
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for rows in by_class(features, seed, draw) {
        let (some, others) = rows.split_at(count(rows.len()).min(rows.len()));
        first.extend(some);
        rest.extend(others);
    }
    first.sort_unstable();
    rest.sort_unstable();
    (first, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_choice_is_made_from_many_images() {
        let rows = fixed_choice(1000, 10);
        assert_eq!(rows.len(), 10);
        assert!(rows.is_sorted_by(|a, b| a < b) && rows[9] < 1000 && rows[9] > 100);
        assert_eq!(rows, fixed_choice(1000, 10));
        assert_eq!(fixed_choice(10, 10), (0..10).collect::<Vec<_>>());
    }
}
