//! The random draws of block maskers, so that recorded ones can be replayed.

use rand::{Rng, RngExt};

/// A source of the two kinds of draws that block maskers make.
pub(crate) trait Draws {
    /// `low + (high - low) * u` with u uniform in `[0, 1)`; `high` may be below `low`.
    fn uniform(&mut self, low: f64, high: f64) -> f64;

    /// A uniform integer from `low` to `high`, both included.
    fn integer(&mut self, low: usize, high: usize) -> usize;
}

/// Fresh draws.
pub(crate) struct Fresh<'a>(pub(crate) &'a mut dyn Rng);

impl Draws for Fresh<'_> {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.random::<f64>()
    }

    fn integer(&mut self, low: usize, high: usize) -> usize {
        self.0.random_range(low..=high)
    }
}

/// Hides random visible patches of one row until `count` are hidden.
pub(crate) fn fill_up(bits: &mut [u8], count: usize, draws: &mut impl Draws) {
    let mut visible: Vec<usize> = (0..bits.len()).filter(|&id| bits[id] == 0).collect();
    let hidden = bits.len() - visible.len();
    for _ in hidden..count.min(bits.len()) {
        let pick = draws.integer(0, visible.len() - 1);
        bits[visible.swap_remove(pick)] = 1;
    }
}

/// Recorded draws; checks that they are asked for in the recorded order and, if known, range.
#[cfg(test)]
pub(crate) struct Tape {
    draws: std::collections::VecDeque<(Option<(f64, f64)>, f64)>,
}

#[cfg(test)]
impl Tape {
    pub(crate) fn new(draws: impl IntoIterator<Item = (Option<(f64, f64)>, f64)>) -> Self {
        Self {
            draws: draws.into_iter().collect(),
        }
    }

    /// A list of `[kind, low, high, value]`.
    pub(crate) fn from_json(draws: &serde_json::Value) -> Self {
        let number = |draw: &serde_json::Value, i: usize| draw[i].as_f64().unwrap();
        let draws = draws.as_array().unwrap().iter();
        Self::new(draws.map(|d| (Some((number(d, 1), number(d, 2))), number(d, 3))))
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.draws.is_empty()
    }

    fn next(&mut self, low: f64, high: f64) -> f64 {
        let (range, value) = self.draws.pop_front().expect("more draws than recorded");
        if let Some((a, b)) = range {
            let close = (a - low).abs() < 1e-9 && (b - high).abs() < 1e-9;
            assert!(close, "asked for {low}..{high}, recorded {a}..{b}");
        }
        value
    }
}

#[cfg(test)]
impl Draws for Tape {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.next(low, high)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "recorded integers are small"
    )]
    fn integer(&mut self, low: usize, high: usize) -> usize {
        let value = self.next(low as f64, high as f64);
        assert_eq!(value.fract(), 0.);
        value as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn fill_up_keeps_what_is_hidden_and_reaches_the_count() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut bits = [0, 1, 0, 0, 1, 0];
        fill_up(&mut bits, 4, &mut Fresh(&mut rng));
        assert_eq!((bits[1], bits[4]), (1, 1));
        assert_eq!(bits.iter().sum::<u8>(), 4);
    }
}
