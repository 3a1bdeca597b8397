//! BootMAE: hides blocks and further patches, in a rolled order.

use mim_core::parts::Part;
use mim_core::{Error, Mask, PatchGrid, Result};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::count::HiddenCount;
use crate::draws::{Draws, Fresh};
use crate::random::argsort;
use crate::{BlockwiseMasker, BlockwiseMaskerConfig, MaskRequest, Masker, MaskerSettings};

const NAME: &str = "rolled block masker";

/// Settings of [`RolledBlockMasker`]; `Default` is the BootMAE pre-training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolledBlockMaskerConfig {
    /// The blocks; their count must be exact to match the paper.
    pub blocks: BlockwiseMaskerConfig,
    /// Total number of hidden patches, in blocks and outside.
    pub hidden: HiddenCount,
    /// Maximum number of positions by which the order is rolled.
    pub max_roll: usize,
}

impl Default for RolledBlockMaskerConfig {
    fn default() -> Self {
        Self {
            blocks: BlockwiseMaskerConfig::bootmae(),
            hidden: HiddenCount::Patches { count: 147 },
            max_roll: 3,
        }
    }
}

impl RolledBlockMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the settings of the blocks or the hidden ratio are invalid.
    pub fn build(&self) -> Result<RolledBlockMasker> {
        self.hidden.validate(NAME)?;
        Ok(RolledBlockMasker {
            blocks: self.blocks.build()?,
            hidden: self.hidden,
            max_roll: self.max_roll,
        })
    }
}

impl Part for RolledBlockMaskerConfig {
    const ABOUT: &'static str = "rectangles, then further patches in an order that is rolled";
    const PAPER: &'static str = "BootMAE: Dong et al., ECCV 2022, arXiv 2207.07116";
    const SMALL: &'static str = r#"
hidden = { type = "ratio", ratio = 0.75 }
blocks = { hidden = { type = "ratio", ratio = 0.5 }, min_block = 2 }
"#;
}

impl MaskerSettings for RolledBlockMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Hides blocks and further random patches up to an exact count.
///
/// Patches are ordered at random, with block patches last. Then all orders of the batch are rolled to
/// the right by the same random number of positions, which makes that many block patches visible. The last
/// patches are hidden. BootMAE (Dong et al., ECCV 2022), release.
#[derive(Debug, Clone)]
pub struct RolledBlockMasker {
    blocks: BlockwiseMasker,
    hidden: HiddenCount,
    max_roll: usize,
}

impl RolledBlockMasker {
    /// The mask for recorded draws: bits of the blocks and noise in `[0, 1)`, both
    /// `[images * tokens]`, and the roll.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if bits, noise and grid do not match, [`Error::InvalidConfig`] if the grid
    /// has too few patches.
    pub fn from_draws(
        &self,
        grid: PatchGrid,
        blocks: &[u8],
        noise: &[f32],
        roll: usize,
    ) -> Result<Mask> {
        let (tokens, hidden) = (grid.len(), self.hidden.on(NAME, grid)?);
        if blocks.len() != noise.len() {
            return Err(Error::shape(
                "noise of the rolled order",
                format!("{} numbers, one per patch", blocks.len()),
                noise.len(),
                "draw one number per patch",
            ));
        }
        let keys: Vec<f32> = blocks
            .iter()
            .zip(noise)
            .map(|(bit, noise)| f32::from(*bit) - noise)
            .collect();
        let mut order: Vec<u32> = keys.chunks(tokens).flat_map(argsort).collect();
        for row in order.chunks_exact_mut(tokens) {
            row.rotate_right(roll % tokens);
        }
        Mask::new(grid, order, vec![tokens - hidden; noise.len() / tokens])
    }
}

impl Masker for RolledBlockMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let mut blocks = Vec::with_capacity(rq.images * rq.grid.len());
        for _ in 0..rq.images {
            blocks.extend(self.blocks.bits(rq.grid, &mut Fresh(rng))?);
        }
        let noise: Vec<f32> = blocks.iter().map(|_| rng.random()).collect();
        let roll = Fresh(rng).integer(0, self.max_roll);
        self.from_draws(rq.grid, &blocks, &noise, roll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{Statistics, request};
    use candle_core::Device;
    use mim_core::StepContext;
    use mim_testing::Golden;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn block_patches_come_last_and_the_roll_shows_some() {
        let masker = RolledBlockMaskerConfig {
            hidden: HiddenCount::Patches { count: 3 },
            ..RolledBlockMaskerConfig::default()
        }
        .build()
        .unwrap();
        let (blocks, noise) = ([1, 0, 0, 1, 0], [0.2, 0.9, 0.5, 0.6, 0.1]);
        let order = |roll| {
            let grid = PatchGrid::new(1, 5);
            let mask = masker.from_draws(grid, &blocks, &noise, roll).unwrap();
            let ids = mask.ids_order(&Device::Cpu).unwrap();
            (
                mask.to_bits(),
                ids.flatten_all().unwrap().to_vec1::<u32>().unwrap(),
            )
        };
        assert_eq!(order(0), (vec![1, 0, 0, 1, 1], vec![1, 2, 4, 3, 0]));
        assert_eq!(order(1), (vec![0, 0, 1, 1, 1], vec![0, 1, 2, 4, 3]));
    }

    /// The order for recorded draws is compared by `mim parity`.
    #[test]
    fn neighbour_frequencies_match_recorded_ones() {
        let case = Golden::load("components/blockwise_mask_bootmae");
        let masker = RolledBlockMaskerConfig::default().build().unwrap();
        let grid = PatchGrid::new(14, 14);
        let (step, mut rng) = (StepContext::new(0), ChaCha8Rng::seed_from_u64(2));
        let mask = masker
            .sample(&request(&step, 2000, grid), &mut rng)
            .unwrap();
        assert_eq!(mask.constant_keep(), Some(49));
        let got = Statistics::of(&mask);
        let want = case.json["config"]["expect_statistics"]["adjacent_equal_final"].as_f64();
        // One roll for the whole batch shifts this by up to 0.01 per position.
        assert!((got.adjacent_equal - want.unwrap()).abs() < 0.03);
    }
}
