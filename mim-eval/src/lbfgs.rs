//! L-BFGS: a quasi-Newton direction from recent steps, and a line search for convex functions.
//!
//! Nocedal & Wright, Numerical Optimization (2nd ed.), Algorithm 7.4 and the conditions (3.7).

use std::collections::VecDeque;

/// Number of steps remembered, SciPy's default.
const MEMORY: usize = 10;
/// Share of the decrease predicted by the slope that a step must achieve.
const DECREASE: f64 = 1e-4;
/// Share of the initial slope that may remain after a step.
const CURVATURE: f64 = 0.9;
/// Maximum evaluations in a line search; enough to bisect down to rounding error.
const TRIALS: usize = 60;

/// Recent steps, and how the gradient changed over them.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<Pair>);

#[derive(Debug)]
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    product: f64,
}

impl History {
    /// Remembers a step and the change of the gradient, unless the curvature along it is lost to rounding.
    pub(crate) fn push(&mut self, step: Vec<f64>, change: Vec<f64>) {
        let product = dot(&step, &change);
        if product <= f64::EPSILON * dot(&change, &change) {
            return;
        }
        if self.0.len() == MEMORY {
            self.0.pop_front();
        }
        self.0.push_back(Pair {
            step,
            change,
            product,
        });
    }

    /// The descent direction for `gradient`; without history, its negative scaled to length 1.
    pub(crate) fn direction(&self, gradient: &[f64]) -> Vec<f64> {
        let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut shares = Vec::with_capacity(self.0.len());
        for pair in self.0.iter().rev() {
            let share = dot(&pair.step, &direction) / pair.product;
            add(&mut direction, -share, &pair.change);
            shares.push(share);
        }
        let scale = match self.0.back() {
            Some(last) => last.product / dot(&last.change, &last.change),
            None => 1. / dot(gradient, gradient).sqrt().max(f64::MIN_POSITIVE),
        };
        direction.iter_mut().for_each(|d| *d *= scale);
        for (pair, share) in self.0.iter().zip(shares.iter().rev()) {
            let back = dot(&pair.change, &direction) / pair.product;
            add(&mut direction, share - back, &pair.step);
        }
        direction
    }
}

/// A step along a convex function that meets the strong Wolfe conditions, with the value there; `None` if rounding
/// hides any decrease.
///
/// `at(step)` returns value and slope; `start` is its result for 0, with a negative slope. The last call of `at` is
/// for the returned step.
pub(crate) fn line_search(
    start: (f64, f64),
    mut at: impl FnMut(f64) -> (f64, f64),
) -> Option<(f64, f64)> {
    let noise = 4. * f64::EPSILON * start.0.abs();
    let (mut low, mut high, mut step) = (0., f64::INFINITY, 1.);
    for _ in 0..TRIALS {
        let (value, slope) = at(step);
        let enough = value <= start.0 + DECREASE * step * start.1 + noise;
        if enough && slope.abs() <= -CURVATURE * start.1 {
            return Some((step, value));
        }
        if enough && slope < 0. {
            low = step;
        } else {
            high = step;
        }
        step = if high.is_finite() {
            (low + high) / 2.
        } else {
            2. * step
        };
    }
    None
}

/// The dot product.
pub(crate) fn dot(xs: &[f64], ys: &[f64]) -> f64 {
    xs.iter().zip(ys).map(|(x, y)| x * y).sum()
}

/// `xs += scale * ys`.
pub(crate) fn add(xs: &mut [f64], scale: f64, ys: &[f64]) {
    for (x, y) in xs.iter_mut().zip(ys) {
        *x += scale * y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimises_a_badly_scaled_quadratic() {
        // sum of c * (x - 1)^2 / 2
        let scales = [1., 10., 100., 1000.];
        let gradient =
            |xs: &[f64]| -> Vec<f64> { xs.iter().zip(scales).map(|(x, c)| c * (x - 1.)).collect() };
        let value = |xs: &[f64]| -> f64 {
            let terms = xs.iter().zip(scales);
            terms.map(|(x, c)| c * (x - 1.).powi(2) / 2.).sum()
        };
        let (mut xs, mut history) = (vec![0.; 4], History::default());
        for _ in 0..30 {
            let before = gradient(&xs);
            let direction = history.direction(&before);
            let start = (value(&xs), dot(&before, &direction));
            let along = |step| {
                let mut ys = xs.clone();
                add(&mut ys, step, &direction);
                (value(&ys), dot(&gradient(&ys), &direction))
            };
            let Some((step, _)) = line_search(start, along) else {
                break;
            };
            let moved: Vec<f64> = direction.iter().map(|d| step * d).collect();
            add(&mut xs, 1., &moved);
            let mut change = gradient(&xs);
            add(&mut change, -1., &before);
            history.push(moved, change);
        }
        assert!(xs.iter().all(|x| (x - 1.).abs() < 1e-6), "{xs:?}");
    }

    #[test]
    fn line_search_shrinks_and_grows_the_step() {
        for minimum in [1e-6, 0.3, 1., 50.] {
            let at = |x: f64| ((x - minimum).powi(2), 2. * (x - minimum));
            let (step, value) = line_search(at(0.), at).unwrap();
            assert!(value < at(0.).0 && step < 2. * minimum, "{minimum}: {step}");
        }
    }

    #[test]
    fn line_search_gives_up_on_a_rising_function() {
        assert_eq!(line_search((0., -1.), |step| (step, 1.)), None);
    }
}
