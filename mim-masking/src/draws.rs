//! Random draws of block maskers, which can be replayed.

use mim_core::{Error, Result};
use rand::{Rng, RngExt};

/// A source of the draws that block maskers make.
pub(crate) trait Draws {
    /// `low + (high - low) * u` with u uniform in `[0, 1)`; `high` may be below `low`.
    fn uniform(&mut self, low: f64, high: f64) -> f64;

    /// A uniform integer from `low` to `high`, both included.
    fn integer(&mut self, low: usize, high: usize) -> usize;
}

/// New draws.
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

/// Recorded draws, in order of use. Mismatches are stored and reported by
/// [`Recorded::finish`], since a draw cannot fail.
pub(crate) struct Recorded<'a> {
    rest: &'a [f64],
    misfit: Option<String>,
}

impl<'a> Recorded<'a> {
    pub(crate) fn new(draws: &'a [f64]) -> Self {
        Self {
            rest: draws,
            misfit: None,
        }
    }

    /// The next draw if it lies between `low` and `high`, otherwise `low`.
    fn next(&mut self, low: f64, high: f64) -> f64 {
        let misfit = match self.rest.split_first() {
            // They may be recorded in f32.
            Some((&draw, rest)) if draw >= low.min(high) - 1e-4 && draw <= low.max(high) + 1e-4 => {
                self.rest = rest;
                return draw;
            }
            Some((draw, _)) => format!("{draw} where a draw from {low} to {high} is expected"),
            None => "fewer draws than needed".to_owned(),
        };
        self.misfit.get_or_insert(misfit);
        low
    }

    /// Checks that all draws were used and in range.
    pub(crate) fn finish(self) -> Result<()> {
        let left = (!self.rest.is_empty()).then(|| format!("{} unused draws", self.rest.len()));
        let Some(got) = self.misfit.or(left) else {
            return Ok(());
        };
        Err(Error::shape(
            "recorded draws of a masker",
            "the draws of one image on this grid, in order",
            got,
            "use the settings of the recording",
        ))
    }
}

impl Draws for Recorded<'_> {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.next(low, high)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it lies between two integers"
    )]
    fn integer(&mut self, low: usize, high: usize) -> usize {
        (self.next(low as f64, high as f64).round() as usize).clamp(low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn mismatched_recorded_draws_are_reported() {
        let told = |draws: &[f64]| {
            let mut recorded = Recorded::new(draws);
            let drawn = (recorded.uniform(0., 1.), recorded.integer(2, 4));
            (drawn, recorded.finish().map_err(|error| error.to_string()))
        };
        assert_eq!(told(&[0.5, 3.]), ((0.5, 3), Ok(())));
        for (draws, what) in [
            (&[0.5][..], "fewer"),
            (&[0.5, 3., 1.], "1 unused"),
            (&[0.5, 5.], "5 where a draw from 2 to 4"),
        ] {
            let error = told(draws).1.unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn fill_up_keeps_hidden_patches_and_reaches_the_count() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut bits = [0, 1, 0, 0, 1, 0];
        fill_up(&mut bits, 4, &mut Fresh(&mut rng));
        assert_eq!((bits[1], bits[4]), (1, 1));
        assert_eq!(bits.iter().sum::<u8>(), 4);
    }
}
