//! Numbers of hidden patches.

use mim_core::{Error, PatchGrid, Result};
use serde::{Deserialize, Serialize};

/// A number of hidden patches, absolute or as a share of the grid.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum HiddenCount {
    /// A fixed number of patches, as papers state it for one image size.
    Patches {
        /// The number.
        count: usize,
    },
    /// `floor(tokens * ratio)` patches, for any image size.
    Ratio {
        /// The share, in `(0, 1)`.
        ratio: f64,
    },
}

impl HiddenCount {
    /// Checks what does not depend on the grid.
    pub(crate) fn validate(self, component: &'static str) -> Result<()> {
        match self {
            Self::Patches { count: 0 } => Err(Error::config(
                component,
                "count",
                0,
                "a mask must hide something to learn from",
                "hide 1 or more patches",
            )),
            Self::Patches { .. } => Ok(()),
            Self::Ratio { ratio } => check_ratio(component, "ratio", ratio),
        }
    }

    /// The number of hidden patches on `grid`.
    pub(crate) fn on(self, component: &'static str, grid: PatchGrid) -> Result<usize> {
        let count = match self {
            Self::Patches { count } => count,
            Self::Ratio { ratio } => share(grid.len(), ratio),
        };
        if let (0, Self::Ratio { ratio }) = (count, self) {
            let why = format!("it would hide none of the {} patches", grid.len());
            let fix = "raise the ratio, or use larger images or smaller patches";
            return Err(Error::config(component, "ratio", ratio, why, fix));
        }
        if count >= grid.len() {
            return Err(Error::config(
                component,
                "count",
                count,
                format!("a grid of {grid} has {} patches", grid.len()),
                "hide fewer patches, or use a ratio instead of a count",
            ));
        }
        Ok(count)
    }
}

/// `int(tokens * ratio)` as Python computes it: in f64, truncated.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the ratio is checked to lie in [0, 1]"
)]
pub(crate) fn share(tokens: usize, ratio: f64) -> usize {
    (tokens as f64 * ratio) as usize
}

/// Refuses a share of hidden patches outside `(0, 1)`, since a mask must hide something.
pub(crate) fn check_ratio(component: &'static str, field: &'static str, ratio: f64) -> Result<()> {
    if ratio > 0. && ratio < 1. {
        return Ok(());
    }
    Err(Error::config(
        component,
        field,
        ratio,
        "it is the share of hidden patches and must be above 0 and below 1",
        format!("set {field} to something like 0.6"),
    ))
}

/// Refuses a limit of shares outside `[0, 1)`; draws in such a range may hide nothing.
pub(crate) fn check_range(component: &'static str, field: &'static str, ratio: f64) -> Result<()> {
    if (0. ..1.).contains(&ratio) {
        return Ok(());
    }
    let why = "it is the share of hidden patches and must be at least 0 and below 1";
    let fix = format!("set {field} to something like 0.6");
    Err(Error::config(component, field, ratio, why, fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fit_the_grid() {
        let grid = PatchGrid::new(14, 14);
        let ratio = HiddenCount::Ratio { ratio: 0.4 };
        assert_eq!(ratio.on("x", grid).unwrap(), 78);
        assert_eq!(
            HiddenCount::Patches { count: 75 }.on("x", grid).unwrap(),
            75
        );
        let error = HiddenCount::Patches { count: 75 }
            .on("x", PatchGrid::new(8, 8))
            .unwrap_err();
        assert!(error.to_string().contains("8x8 has 64 patches"), "{error}");
    }
}
