//! Several masks per image that together hide nearly every patch.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::count::{check_ratio, share};
use crate::random::argsort;
use crate::{MaskRequest, Masker, MaskerSettings};

const NAME: &str = "disjoint masker";

/// Settings of [`DisjointMasker`]; `Default` is DMJD's recommended recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DisjointMaskerConfig {
    /// Share of hidden units per view, in `[0, 1)`. Default 0.6.
    pub mask_ratio: f64,
    /// Share of units hidden in at least one of two consecutive views, between `mask_ratio` and 1. Default 1.
    pub pred_ratio: f64,
    /// Side of a unit in patches: 1 or 2. Default 2.
    pub unit: usize,
    /// Masks per image. The authors' code has 2, the default. Each further mask relates to its
    /// predecessor as the second one to the first.
    pub views: usize,
}

impl Default for DisjointMaskerConfig {
    fn default() -> Self {
        Self {
            mask_ratio: 0.6,
            pred_ratio: 1.,
            unit: 2,
            views: 2,
        }
    }
}

impl DisjointMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] naming the invalid setting.
    pub fn build(&self) -> Result<DisjointMasker> {
        check_ratio(NAME, "mask_ratio", self.mask_ratio)?;
        let bad = |field: &'static str, value: String, why: &'static str, fix: &'static str| {
            Err(Error::config(NAME, field, value, why, fix))
        };
        if !(self.mask_ratio..=1.).contains(&self.pred_ratio) {
            let why = "together, views hide at least mask_ratio and at most everything";
            return bad("pred_ratio", self.pred_ratio.to_string(), why, "use 1");
        }
        if !matches!(self.unit, 1 | 2) {
            let why = "units must be single patches or 2x2 patches";
            return bad("unit", self.unit.to_string(), why, "use 1 or 2");
        }
        if self.views == 0 {
            return bad(
                "views",
                "0".to_owned(),
                "there must be at least one",
                "use 2",
            );
        }
        Ok(DisjointMasker {
            config: self.clone(),
        })
    }
}

impl Part for DisjointMaskerConfig {
    const ABOUT: &'static str = "several masks per image, which together hide nearly all of it";
    const PAPER: &'static str = "DMJD: Ma et al., TMM 2023, arXiv 2301.00230";
}

impl MaskerSettings for DisjointMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Two (or more) masks per image, copy-major: the next view hides what one view shows.
///
/// Every view hides the same number of units. The units of the first view are drawn like MAE's. Each further
/// view hides `min(pred_ratio - mask_ratio, mask_ratio)` of all units from the previously visible ones,
/// and the rest from the previously hidden ones, by permutations that all images share.
/// DMJD (Ma et al., arXiv 2301.00230), section III-B; mx-mark/DMJD @ 881b21d, `models_dmjd.py`.
#[derive(Debug, Clone)]
pub struct DisjointMasker {
    config: DisjointMaskerConfig,
}

/// Permutations that derive a view from its predecessor, over the positions of its visible and of
/// its hidden units.
pub type DisjointDraw = (Vec<u32>, Vec<u32>);

impl DisjointMasker {
    /// The grid of units on a grid of patches.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the units do not tile the grid.
    pub fn units(&self, grid: PatchGrid) -> Result<PatchGrid> {
        let unit = self.config.unit;
        if !grid.rows.is_multiple_of(unit) || !grid.cols.is_multiple_of(unit) {
            return Err(Error::config(
                NAME,
                "unit",
                unit,
                format!("units of {unit}x{unit} patches do not tile a grid of {grid}"),
                "use unit = 1, or an image with an even number of patches on both sides",
            ));
        }
        Ok(PatchGrid::new(grid.rows / unit, grid.cols / unit))
    }

    /// Number of visible units per view, and how many of them the next view hides.
    fn counts(&self, units: usize) -> (usize, usize) {
        let DisjointMaskerConfig {
            mask_ratio,
            pred_ratio,
            ..
        } = self.config;
        let disjoint = (pred_ratio - mask_ratio).min(mask_ratio);
        (share(units, 1. - mask_ratio), share(units, disjoint))
    }

    /// The masks for recorded `noise` `[images * units]` and one pair of permutations for each view
    /// after the first.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the units do not tile the grid or none would stay visible,
    /// [`Error::Shape`] if noise or permutations have the wrong length.
    pub fn from_draws(
        &self,
        grid: PatchGrid,
        noise: &[f32],
        draws: &[DisjointDraw],
    ) -> Result<Mask> {
        let units = self.units(grid)?;
        let (keep, extra) = self.counts(units.len());
        self.check(units, keep, noise, draws)?;
        let images = noise.len() / units.len();
        let mut orders: Vec<Vec<u32>> = noise.chunks(units.len()).map(argsort).collect();
        let mut tokens = Vec::with_capacity(images * self.config.views * grid.len());
        let mut emit = |orders: &[Vec<u32>]| {
            for order in orders {
                let (visible, hidden) = order.split_at(keep);
                tokens.extend(self.patches(visible, units));
                tokens.extend(self.patches(hidden, units));
            }
        };
        emit(&orders);
        for draw in draws {
            for order in &mut orders {
                *order = next(order, (keep, extra), draw);
            }
            emit(&orders);
        }
        let visible = keep * self.config.unit * self.config.unit;
        Mask::new(grid, tokens, vec![visible; images * self.config.views])
    }

    fn check(
        &self,
        units: PatchGrid,
        keep: usize,
        noise: &[f32],
        draws: &[DisjointDraw],
    ) -> Result<()> {
        if keep == 0 {
            return Err(Error::config(
                NAME,
                "mask_ratio",
                self.config.mask_ratio,
                format!("it would leave none of the {} units visible", units.len()),
                "lower mask_ratio, or use larger images or smaller patches",
            ));
        }
        let hidden = units.len() - keep;
        let fits = |(first, second): &DisjointDraw| {
            is_permutation(first, keep) && is_permutation(second, hidden)
        };
        if noise.is_empty()
            || !noise.len().is_multiple_of(units.len())
            || draws.len() + 1 != self.config.views
            || !draws.iter().all(fits)
        {
            return Err(Error::shape(
                "draws of a disjoint masker",
                format!(
                    "noise for each of {} units, and for each further view permutations of {keep} and {hidden}",
                    units.len()
                ),
                format!("{} numbers and {} pairs", noise.len(), draws.len()),
                "record them for this grid, ratio and number of views",
            ));
        }
        Ok(())
    }

    /// The patches of `ids`: the upper left patches of all units, then the upper right ones, and so on.
    fn patches(&self, ids: &[u32], units: PatchGrid) -> impl Iterator<Item = u32> {
        let unit = self.config.unit;
        #[expect(clippy::cast_possible_truncation, reason = "grids fit u32")]
        let (cols, side) = (units.cols as u32, unit as u32);
        let corners = (0..side * side).map(move |corner| (corner / side, corner % side));
        let ids = ids.to_vec();
        corners.flat_map(move |(row, col)| {
            let patch = |id: &u32| (id / cols * side + row) * cols * side + id % cols * side + col;
            ids.iter().map(patch).collect::<Vec<_>>()
        })
    }
}

/// The units of the next view, visible ones first.
fn next(order: &[u32], (keep, extra): (usize, usize), (first, second): &DisjointDraw) -> Vec<u32> {
    let (visible, hidden) = order.split_at(keep);
    let stay = hidden.len() - extra;
    let pick = |from: &[u32], places: &[u32]| -> Vec<u32> {
        places.iter().map(|&place| from[place as usize]).collect()
    };
    [
        pick(visible, &first[extra..]),
        pick(hidden, &second[stay..]),
        pick(visible, &first[..extra]),
        pick(hidden, &second[..stay]),
    ]
    .concat()
}

fn is_permutation(places: &[u32], count: usize) -> bool {
    let mut seen = vec![false; count];
    places.len() == count
        && places.iter().all(|&place| {
            let new = seen.get_mut(place as usize);
            new.is_some_and(|seen| !std::mem::replace(seen, true))
        })
}

impl Masker for DisjointMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let units = self.units(rq.grid)?.len();
        let (keep, _) = self.counts(units);
        let noise: Vec<f32> = (0..rq.images * units).map(|_| rng.random()).collect();
        let mut shuffled = |count: usize| {
            let mut places: Vec<u32> = (0u32..).take(count).collect();
            places.shuffle(rng);
            places
        };
        let draws: Vec<DisjointDraw> = (1..self.config.views)
            .map(|_| (shuffled(keep), shuffled(units - keep)))
            .collect();
        self.from_draws(rq.grid, &noise, &draws)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::request;
    use mim_core::StepContext;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn masker(mask_ratio: f64, pred_ratio: f64, unit: usize, views: usize) -> DisjointMasker {
        let config = DisjointMaskerConfig {
            mask_ratio,
            pred_ratio,
            unit,
            views,
        };
        config.build().unwrap()
    }

    #[test]
    fn the_second_view_hides_what_the_first_one_shows() {
        let masker = masker(0.5, 1., 1, 2);
        let draw = (vec![1, 0], vec![0, 1]);
        let mask = masker
            .from_draws(PatchGrid::new(2, 2), &[0.9, 0.1, 0.2, 0.8], &[draw])
            .unwrap();
        assert_eq!(mask.to_bits(), [1, 0, 0, 1, 0, 1, 1, 0]);
        assert_eq!(
            (mask.visible(1), mask.hidden(1)),
            (&[3, 0][..], &[2, 1][..])
        );
    }

    #[test]
    fn units_are_emitted_corner_by_corner() {
        let masker = masker(0.5, 1., 2, 1);
        let mask = masker
            .from_draws(PatchGrid::new(2, 4), &[0.9, 0.1], &[])
            .unwrap();
        assert_eq!(
            (mask.visible(0), mask.hidden(0)),
            (&[2, 3, 6, 7][..], &[0, 1, 4, 5][..])
        );
    }

    #[test]
    fn further_views_hide_what_their_predecessor_shows() {
        let masker = masker(0.5, 1., 1, 4);
        let step = StepContext::new(0);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mask = masker
            .sample(&request(&step, 3, PatchGrid::new(4, 4)), &mut rng)
            .unwrap();
        assert_eq!(mask.copies(3).unwrap(), 4);
        let bits = mask.to_bits();
        let views: Vec<&[u8]> = bits.chunks(3 * 16).collect();
        for pair in views.windows(2) {
            assert!(pair[0].iter().zip(pair[1]).all(|(a, b)| a + b == 1));
        }
    }

    #[test]
    fn refuses_invalid_settings_and_draws() {
        let refused = |config: DisjointMaskerConfig| config.build().unwrap_err().to_string();
        let config = DisjointMaskerConfig::default;
        assert!(
            refused(DisjointMaskerConfig {
                pred_ratio: 0.5,
                ..config()
            })
            .contains("pred_ratio")
        );
        assert!(
            refused(DisjointMaskerConfig {
                unit: 3,
                ..config()
            })
            .contains("unit")
        );
        assert!(
            refused(DisjointMaskerConfig {
                views: 0,
                ..config()
            })
            .contains("views")
        );
        let two = masker(0.5, 1., 1, 2);
        let grid = PatchGrid::new(2, 2);
        assert!(two.from_draws(grid, &[0.; 4], &[]).is_err());
        assert!(
            two.from_draws(grid, &[0.; 4], &[(vec![0, 0], vec![0, 1])])
                .is_err()
        );
        assert!(
            two.from_draws(grid, &[0.; 3], &[(vec![0, 1], vec![0, 1])])
                .is_err()
        );
        assert!(masker(0.6, 1., 2, 2).units(PatchGrid::new(3, 4)).is_err());
        assert!(
            masker(0.9, 1., 1, 1)
                .from_draws(grid, &[0.; 4], &[])
                .is_err()
        );
    }
}
