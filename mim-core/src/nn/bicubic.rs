//! Bicubic interpolation of grids, as PyTorch computes it.

/// For each of `to` outputs: four of the `from` source positions and their weights (a = -0.75, edges
/// repeated, no antialiasing). Neighbouring outputs are `step` source positions apart.
pub(crate) fn taps(from: usize, to: usize, step: f64) -> Vec<[(usize, f32); 4]> {
    const A: f64 = -0.75;
    let near = |d: f64| ((A + 2.) * d - (A + 3.)) * d * d + 1.;
    let far = |d: f64| ((A * d - 5. * A) * d + 8. * A) * d - 4. * A;
    let place = |index: usize| {
        let centre = (index as f64 + 0.5) * step - 0.5;
        let (first, t) = (centre.floor(), centre - centre.floor());
        let weights = [far(t + 1.), near(t), near(1. - t), far(2. - t)];
        let mut tap = 0usize;
        weights.map(|weight| {
            tap += 1;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped to the grid"
            )]
            let source = (first + tap as f64 - 2.).clamp(0., from as f64 - 1.) as usize;
            #[expect(clippy::cast_possible_truncation, reason = "grids hold f32")]
            (source, weight as f32)
        })
    };
    (0..to).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_a_step_of_one_is_the_identity() {
        for row in taps(5, 9, 5. / 9.) {
            let sum: f32 = row.iter().map(|(_, weight)| weight).sum();
            assert!((sum - 1.).abs() < 1e-6);
        }
        for (at, row) in taps(3, 3, 1.).into_iter().enumerate() {
            let here: f32 = row
                .iter()
                .filter(|(source, _)| *source == at)
                .map(|(_, weight)| weight)
                .sum();
            assert!((here - 1.).abs() < 1e-6, "{row:?}");
        }
    }
}
