//! Hides all patches, in a random order.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::random::argsort;
use crate::{MaskRequest, Masker, MaskerSettings};

/// Settings of [`PermutationMasker`]; it has none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermutationMaskerConfig {}

impl Part for PermutationMaskerConfig {
    const ABOUT: &'static str = "all patches, in a random order in which they are predicted";
    const PAPER: &'static str = "SAIM: Qi et al., AAAI 2023, arXiv 2212.01610";
}

impl MaskerSettings for PermutationMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(PermutationMasker))
    }
}

/// Hides every patch; the order follows one uniform number per patch (SAIM, Qi et al., AAAI 2023,
/// section 3.2).
#[derive(Debug, Clone, Copy)]
pub struct PermutationMasker;

impl PermutationMasker {
    /// The mask for recorded `noise` `[images * tokens]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the noise is not a multiple of the grid.
    pub fn from_noise(&self, grid: PatchGrid, noise: &[f32]) -> Result<Mask> {
        if noise.is_empty() || !noise.len().is_multiple_of(grid.len()) {
            return Err(Error::shape(
                "noise of an order",
                format!("one number per patch of {grid}"),
                noise.len(),
                "draw the noise for this grid",
            ));
        }
        let order: Vec<u32> = noise.chunks(grid.len()).flat_map(argsort).collect();
        Mask::new(grid, order, vec![0; noise.len() / grid.len()])
    }
}

impl Masker for PermutationMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let noise: Vec<f32> = (0..rq.images * rq.grid.len())
            .map(|_| rng.random())
            .collect();
        self.from_noise(rq.grid, &noise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::request;
    use mim_core::StepContext;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn all_patches_are_hidden_in_the_order_of_the_noise() {
        let noise = [0.5, 0.1, 0.9, 0.3];
        let mask = PermutationMasker
            .from_noise(PatchGrid::new(2, 2), &noise)
            .unwrap();
        assert_eq!(mask.hidden(0), [1, 3, 0, 2]);
        assert!(mask.visible(0).is_empty());
        assert!(
            PermutationMasker
                .from_noise(PatchGrid::new(2, 2), &[0.; 3])
                .is_err()
        );
    }

    #[test]
    fn every_order_is_equally_likely() {
        let (grid, step) = (PatchGrid::new(1, 3), StepContext::new(0));
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mask = PermutationMasker
            .sample(&request(&step, 6000, grid), &mut rng)
            .unwrap();
        let mut counts = std::collections::BTreeMap::new();
        for row in 0..mask.rows() {
            *counts.entry(mask.hidden(row).to_vec()).or_insert(0) += 1;
        }
        // One standard error is 29.
        assert_eq!(counts.len(), 6);
        assert!(
            counts.values().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }
}
