//! I-JEPA: a large visible context block, and several predicted target blocks.

use mim_core::parts::Part;
use mim_core::rng::stream;
use mim_core::{Error, Mask, PatchGrid, Purpose, Result};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::draws::{Draws, Fresh, Recorded};
use crate::{MaskRequest, Masker, MaskerSettings};

const NAME: &str = "multi-block masker";
/// Attempts to place a context block before it may overlap one more target.
const TRIES: usize = 20;
/// Separates the random stream of sizes from that of positions.
const SIZES: u64 = 1;

/// Settings of [`MultiBlockMasker`]; `Default` is the I-JEPA recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultiBlockMaskerConfig {
    /// Range of the share of the image covered by a target block. Default 0.15 to 0.2.
    pub target_scale: [f64; 2],
    /// Range of height / width of a target block. Default 0.75 to 1.5.
    pub target_aspect: [f64; 2],
    /// Range of the share of the image covered by a context block. Default 0.85 to 1.
    pub context_scale: [f64; 2],
    /// Target blocks per image. Default 4.
    pub targets: usize,
    /// Context blocks per image. Default 1.
    pub contexts: usize,
    /// A block must have more patches than this. Default 10.
    pub min_keep: usize,
    /// Whether context blocks may overlap target blocks. Default false.
    pub allow_overlap: bool,
}

impl Default for MultiBlockMaskerConfig {
    fn default() -> Self {
        Self {
            target_scale: [0.15, 0.2],
            target_aspect: [0.75, 1.5],
            context_scale: [0.85, 1.],
            targets: 4,
            contexts: 1,
            min_keep: 10,
            allow_overlap: false,
        }
    }
}

impl MultiBlockMaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a range is empty or out of bounds, or there are no blocks.
    pub fn build(&self) -> Result<MultiBlockMasker> {
        let counts = [
            ("targets", self.targets),
            ("contexts", self.contexts),
            ("min_keep", self.min_keep),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            let (why, fix) = ("it must be at least 1", "use 1 or more");
            return Err(Error::config(NAME, field, 0, why, fix));
        }
        for (field, [low, high], most) in [
            ("target_scale", self.target_scale, 1.),
            ("context_scale", self.context_scale, 1.),
            ("target_aspect", self.target_aspect, f64::INFINITY),
        ] {
            if !(low > 0. && low <= high && high <= most && high.is_finite()) {
                let why = "it must be a range of positive numbers, the lower one first; shares are at most 1";
                let fix = "use [0.15, 0.2], for example";
                return Err(Error::config(
                    NAME,
                    field,
                    format!("[{low}, {high}]"),
                    why,
                    fix,
                ));
            }
        }
        Ok(MultiBlockMasker {
            config: self.clone(),
        })
    }
}

impl Part for MultiBlockMaskerConfig {
    const ABOUT: &'static str =
        "one large block is visible; each of several smaller blocks is predicted from it";
    const PAPER: &'static str = "I-JEPA: Assran et al., CVPR 2023, arXiv 2301.08243";
    const SMALL: &'static str = "min_keep = 4";
}

impl MaskerSettings for MultiBlockMaskerConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

/// Height and width, in patches, of the blocks of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Of all target blocks.
    pub target: (usize, usize),
    /// Of all context blocks, before targets are removed.
    pub context: (usize, usize),
}

/// The patches of the blocks of a batch, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultiBlocks {
    /// Context blocks per image; lengths may differ.
    pub contexts: Vec<Vec<Vec<u32>>>,
    /// Target blocks per image; all have the same length.
    pub targets: Vec<Vec<Vec<u32>>>,
}

impl MultiBlocks {
    /// The mask: one row per target, context and image, nested in this order; the context is visible, the
    /// target hidden. All contexts are truncated to the length of the shortest one.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if there are no blocks.
    pub fn mask(&self, grid: PatchGrid) -> Result<Mask> {
        let contexts = self.contexts.iter().flatten();
        let keep = contexts.map(Vec::len).min().unwrap_or(0);
        let count = |blocks: &[Vec<Vec<u32>>]| blocks.first().map_or(0, Vec::len);
        let mut order = Vec::new();
        for target in 0..count(&self.targets) {
            for context in 0..count(&self.contexts) {
                for (contexts, targets) in self.contexts.iter().zip(&self.targets) {
                    order.extend(&contexts[context][..keep]);
                    order.extend(&targets[target]);
                }
            }
        }
        let rows = count(&self.targets) * count(&self.contexts) * self.contexts.len();
        Mask::overlapping(grid, order, vec![keep; rows])
    }
}

/// Draws several target blocks per image, and a context block without them. Every target is predicted separately, so a
/// mask has one row per target.
///
/// Sizes are drawn once per batch and are the same in all processes. A block never reaches the last row and column.
/// If no position of a context leaves enough patches, it may overlap targets, starting with the last one.
/// I-JEPA (Assran et al., CVPR 2023), Sec. 3; facebookresearch/ijepa @ 52c1ae9, `src/masks/multiblock.py`.
#[derive(Debug, Clone)]
pub struct MultiBlockMasker {
    config: MultiBlockMaskerConfig,
}

impl MultiBlockMasker {
    /// The sizes for two draws in `[0, 1)`: one for targets, one for contexts.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a block would not have more than `min_keep` patches.
    pub fn sizes(&self, grid: PatchGrid, draws: [f32; 2]) -> Result<BlockSizes> {
        let config = &self.config;
        let [target, context] = draws.map(f64::from);
        let size = |[low, high]: [f64; 2], [narrow, tall]: [f64; 2], draw: f64| {
            let share = low + draw * (high - low);
            let patches = (grid.len() as f64 * share).floor();
            // Parity: the same draw sets size and aspect.
            let aspect = narrow + draw * (tall - narrow);
            let side = |length: f64, whole: usize| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a side in patches"
                )]
                let side = length.round_ties_even() as usize;
                // Parity: a block is smaller than the grid on both axes.
                side.min(whole.saturating_sub(1))
            };
            (
                side((patches * aspect).sqrt(), grid.rows),
                side((patches / aspect).sqrt(), grid.cols),
            )
        };
        let sizes = BlockSizes {
            target: size(config.target_scale, config.target_aspect, target),
            context: size(config.context_scale, [1., 1.], context),
        };
        for (field, (height, width)) in [
            ("target_scale", sizes.target),
            ("context_scale", sizes.context),
        ] {
            if height * width <= config.min_keep {
                let why = format!(
                    "it gives blocks of {height}x{width} on {grid} patches, which is not more than min_keep = {}",
                    config.min_keep
                );
                let fix = "raise it, lower min_keep, or use larger images or smaller patches";
                let value = match field {
                    "target_scale" => config.target_scale,
                    _ => config.context_scale,
                };
                return Err(Error::config(NAME, field, format!("{value:?}"), why, fix));
            }
        }
        Ok(sizes)
    }

    /// The blocks of `images` images for recorded `draws` of positions: top and left of each attempt, image by
    /// image, targets before contexts.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the draws do not match.
    pub fn from_draws(
        &self,
        grid: PatchGrid,
        sizes: BlockSizes,
        images: usize,
        draws: &[f64],
    ) -> Result<MultiBlocks> {
        let mut recorded = Recorded::new(draws);
        let blocks = self.blocks(grid, sizes, images, &mut recorded);
        recorded.finish()?;
        Ok(blocks)
    }

    fn blocks(
        &self,
        grid: PatchGrid,
        sizes: BlockSizes,
        images: usize,
        draws: &mut impl Draws,
    ) -> MultiBlocks {
        let mut blocks = MultiBlocks {
            contexts: Vec::with_capacity(images),
            targets: Vec::with_capacity(images),
        };
        for _ in 0..images {
            let place = |draws: &mut _| rectangle(grid, sizes.target, draws);
            let targets: Vec<_> = (0..self.config.targets).map(|_| place(draws)).collect();
            let contexts = (0..self.config.contexts)
                .map(|_| self.context(grid, sizes.context, &targets, draws))
                .collect();
            blocks.contexts.push(contexts);
            blocks.targets.push(targets);
        }
        blocks
    }

    /// A context block without the patches of `targets`; after each 20 failures, one target fewer is avoided.
    fn context(
        &self,
        grid: PatchGrid,
        size: (usize, usize),
        targets: &[Vec<u32>],
        draws: &mut impl Draws,
    ) -> Vec<u32> {
        let mut avoided = match self.config.allow_overlap {
            true => &[][..],
            false => targets,
        };
        loop {
            for _ in 0..TRIES {
                let mut block = rectangle(grid, size, draws);
                block.retain(|id| !avoided.iter().any(|target| target.contains(id)));
                // Without targets to avoid, every position works: the block is larger than `min_keep`.
                if block.len() > self.config.min_keep || avoided.is_empty() {
                    return block;
                }
            }
            avoided = &avoided[..avoided.len() - 1];
        }
    }
}

/// The patches of a rectangle at a drawn position, ascending.
fn rectangle(grid: PatchGrid, (height, width): (usize, usize), draws: &mut impl Draws) -> Vec<u32> {
    // Parity: the last position on each axis is never drawn.
    let top = draws.integer(0, (grid.rows - height).saturating_sub(1));
    let left = draws.integer(0, (grid.cols - width).saturating_sub(1));
    let rows = top..top + height;
    let ids = rows.flat_map(|row| (left..left + width).map(move |col| row * grid.cols + col));
    ids.filter_map(|id| u32::try_from(id).ok()).collect()
}

impl Masker for MultiBlockMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let step = rq.step;
        // Not `rng`, which differs between processes.
        let place = [step.global_iter() as u64, (step.micro as u64) << 32 | SIZES];
        let mut sizes = stream(step.seed, Purpose::Mask, place);
        let sizes = self.sizes(rq.grid, [sizes.random(), sizes.random()])?;
        let blocks = self.blocks(rq.grid, sizes, rq.images, &mut Fresh(rng));
        blocks.mask(rq.grid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::request;
    use mim_core::StepContext;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn sizes_are_the_same_in_all_processes_and_change_with_the_step() {
        let masker = MultiBlockMaskerConfig::default().build().unwrap();
        let grid = PatchGrid::new(14, 14);
        let width = |iter: usize, seed: u64| {
            let step = StepContext {
                iter,
                iters_per_epoch: 100,
                ..StepContext::new(3)
            };
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mask = masker.sample(&request(&step, 2, grid), &mut rng).unwrap();
            mask.width() - mask.exact_keep().unwrap()
        };
        assert_eq!(width(4, 0), width(4, 1));
        let all: std::collections::BTreeSet<_> = (0..20).map(|iter| width(iter, 0)).collect();
        assert!(all.len() > 2, "{all:?}");
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut MultiBlockMaskerConfig));
        let wrong: [Wrong; 5] = [
            ("`targets` is 0", |c| c.targets = 0),
            ("`min_keep` is 0", |c| c.min_keep = 0),
            ("`target_scale` is [0.3, 0.2]", |c| {
                c.target_scale = [0.3, 0.2]
            }),
            ("`context_scale` is [0.5, 1.5]", |c| {
                c.context_scale = [0.5, 1.5]
            }),
            ("`target_aspect` is [NaN, 1]", |c| {
                c.target_aspect = [f64::NAN, 1.]
            }),
        ];
        for (what, spoil) in wrong {
            let mut config = MultiBlockMaskerConfig::default();
            spoil(&mut config);
            let error = config.build().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let masker = MultiBlockMaskerConfig::default().build().unwrap();
        for grid in [PatchGrid::new(4, 4), PatchGrid::new(1, 1)] {
            let error = masker.sizes(grid, [0.5, 0.5]).unwrap_err().to_string();
            assert!(error.contains("lower min_keep"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn blocks_are_disjoint_and_of_equal_length(seed in any::<u64>(), rows in 8usize..17, contexts in 1usize..3) {
            let (grid, step) = (PatchGrid::new(rows, 9), StepContext::new(seed));
            let config = MultiBlockMaskerConfig { contexts, min_keep: 4, ..MultiBlockMaskerConfig::default() };
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mask = config.build().unwrap().sample(&request(&step, 3, grid), &mut rng).unwrap();
            prop_assert_eq!(mask.rows(), 4 * contexts * 3);
            let keep = mask.exact_keep().unwrap();
            prop_assert!(keep > 4 && mask.width() - keep > 4);
            for row in 0..mask.rows() {
                // All targets of a context have the same visible patches.
                let first = row % (contexts * 3);
                prop_assert_eq!(mask.visible(row), mask.visible(first));
                let edge = |id: &u32| *id as usize / 9 == rows - 1 || *id as usize % 9 == 8;
                prop_assert!(!mask.visible(row).iter().chain(mask.hidden(row)).any(edge));
            }
        }
    }
}
