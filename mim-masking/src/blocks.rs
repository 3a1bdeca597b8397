//! Placement of hidden rectangles, shared by all block maskers.

use mim_core::{Error, PatchGrid, Result};

use crate::draws::Draws;

/// Number of failed attempts after which an endless sampler reports impossible settings.
const HOPELESS: usize = 100_000;

/// How rectangles are drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockRule {
    /// Minimum of the drawn area, in patches.
    pub(crate) min_area: f64,
    /// Maximum of the drawn area, and of the new patches per block.
    pub(crate) max_area: f64,
    /// Range of the logarithm of height / width.
    pub(crate) log_aspect: (f64, f64),
    /// Attempts per block before placing stops; `None` tries until it succeeds.
    pub(crate) attempts: Option<usize>,
}

impl BlockRule {
    /// Logarithms of an aspect range; the upper end defaults to `1 / min`.
    pub(crate) fn log_aspect(
        component: &'static str,
        min: f64,
        max: Option<f64>,
    ) -> Result<(f64, f64)> {
        let max = max.unwrap_or(1. / min);
        if min > 0. && max >= min && max.is_finite() {
            return Ok((min.ln(), max.ln()));
        }
        Err(Error::config(
            component,
            "min_aspect, max_aspect",
            format!("{min}, {max}"),
            "they are the limits of height / width and must be positive",
            "use for example only min_aspect = 0.3, for 0.3 to 1 / 0.3",
        ))
    }

    /// Hides rectangles in one row of `bits` until `target` patches are hidden or it is stuck;
    /// never more than `target`.
    ///
    /// Draws per attempt: area, log aspect and, only if the rectangle is smaller than the
    /// grid on both axes, top and left.
    pub(crate) fn place(
        &self,
        grid: PatchGrid,
        target: f64,
        bits: &mut [u8],
        draws: &mut impl Draws,
    ) -> Result<()> {
        let mut count = 0usize;
        while (count as f64) < target {
            let cap = (target - count as f64).min(self.max_area);
            let attempts = self.attempts.unwrap_or(HOPELESS);
            match (0..attempts).find_map(|_| self.attempt(grid, cap, bits, draws)) {
                Some(new) => count += new,
                None if self.attempts.is_some() => break,
                None => return Err(hopeless(grid, target)),
            }
        }
        Ok(())
    }

    /// Hides one rectangle if it has 1 to `cap` new patches; returns their number.
    fn attempt(
        &self,
        grid: PatchGrid,
        cap: f64,
        bits: &mut [u8],
        draws: &mut impl Draws,
    ) -> Option<usize> {
        let area = draws.uniform(self.min_area, cap);
        let aspect = draws.uniform(self.log_aspect.0, self.log_aspect.1).exp();
        let (height, width) = (side(area * aspect), side(area / aspect));
        // Parity: a rectangle as high or as wide as the grid is refused, as in all releases.
        if height >= grid.rows || width >= grid.cols {
            return None;
        }
        let top = draws.integer(0, grid.rows - height);
        let left = draws.integer(0, grid.cols - width);
        let patches = (top..top + height)
            .flat_map(|row| (left..left + width).map(move |col| row * grid.cols + col));
        let new = patches.clone().filter(|&id| bits[id] == 0).count();
        if new == 0 || new as f64 > cap {
            return None;
        }
        patches.for_each(|id| bits[id] = 1);
        Some(new)
    }
}

/// Side length from its square, rounded half to even.
#[expect(
    clippy::cast_possible_truncation,
    reason = "areas are positive and of the order of the grid"
)]
fn side(square: f64) -> usize {
    square.max(0.).sqrt().round_ties_even() as usize
}

fn hopeless(grid: PatchGrid, target: f64) -> Error {
    Error::unsupported(
        format!("hiding {target} patches of a {grid} grid with blocks only"),
        format!("{HOPELESS} attempts in a row added nothing"),
        "use smaller blocks (min_block), a wider aspect range, or when_stuck = \"top_up\"",
    )
}
