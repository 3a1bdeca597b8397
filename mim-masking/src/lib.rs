//! Maskers: they choose which patches of an image are hidden.
//!
//! A masker is a [`Masker`]. Its settings are a serde struct such as [`RandomMaskerConfig`], whose `Default` is the recipe
//! of its paper. All randomness comes from the generator that the caller passes, so the same seed gives the same mask.
//!
//! | what is hidden | maskers |
//! |---|---|
//! | single patches | [`RandomMasker`] (MAE), [`PartialMasker`] (CrossMAE), [`PermutationMasker`] (SAIM) |
//! | square cells | [`CellMasker`] (SimMIM), [`DisjointMasker`] (DMJD) |
//! | rectangles | [`BlockwiseMasker`] (BEiT, MaskFeat, data2vec), [`RolledBlockMasker`] (BootMAE), [`IbotBlockMasker`] (iBOT), [`MultiBlockMasker`] (I-JEPA), [`InverseBlockMasker`] (CAPI) |
//! | what a teacher attends to, or not | [`AttentionMasker`] (AttMask), [`WeightedMasker`] (MILAN) |
//! | parts of objects | [`SemanticPartMasker`] (SemMAE) |
//! | a given mask | [`FixedMasker`] |
//!
//! # Draw masks
//!
//! ```
//! use candle_core::Device;
//! use mim_core::{PatchGrid, Purpose, StepContext};
//! use mim_masking::{Guide, MaskRequest, Masker, RandomMaskerConfig};
//!
//! let masker = RandomMaskerConfig { mask_ratio: 0.75 }.build()?;
//! let step = StepContext::new(7); // the first step of a run with seed 7
//! let grid = PatchGrid::new(4, 4);
//! let request = MaskRequest { images: 2, grid, guide: Guide::None, step: &step };
//! let mask = masker.sample(&request, &mut step.rng(Purpose::Mask, 0))?;
//!
//! assert_eq!(mask.visible(0).len(), 4);
//! assert_eq!(mask.ids_keep(&Device::Cpu)?.dims(), [2, 4]);
//! assert_eq!(mask.to_bits().iter().filter(|bit| **bit == 1).count(), 2 * 12);
//! // The same step draws the same mask.
//! assert_eq!(mask, masker.sample(&request, &mut step.rng(Purpose::Mask, 0))?);
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # Follow a teacher's attention
//!
//! Some maskers need a guide, a number per patch. [`Masker::guide`] says which kind. In a
//! method, a target provides it.
//!
//! ```
//! use mim_core::{PatchGrid, Purpose, StepContext};
//! use mim_masking::{Guide, GuideKind, MaskRequest, Masker, WeightedMaskerConfig};
//!
//! let masker = WeightedMaskerConfig { mask_ratio: 0.5 }.build()?;
//! assert_eq!(masker.guide(), GuideKind::Scores);
//!
//! let step = StepContext::new(0);
//! // Only the left column has a score, so it stays visible.
//! let scores = [1., 0., 1., 0.];
//! let (grid, guide) = (PatchGrid::new(2, 2), Guide::Scores(&scores));
//! let request = MaskRequest { images: 1, grid, guide, step: &step };
//! let mask = masker.sample(&request, &mut step.rng(Purpose::Mask, 0))?;
//! assert_eq!(mask.to_bits(), [0, 1, 0, 1]);
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # Choose a masker by name
//!
//! [`maskers`] lists what a config can name, with descriptions and papers.
//!
//! ```
//! use mim_core::{PatchGrid, Purpose, StepContext};
//! use mim_masking::{Guide, MaskRequest, maskers};
//!
//! let settings = r#"
//!     type = "blockwise"
//!     hidden = { type = "patches", count = 6 }
//!     min_block = 2
//! "#;
//! let masker = maskers().read(settings.parse()?)?.build()?;
//! let step = StepContext::new(0);
//! let grid = PatchGrid::new(4, 4);
//! let request = MaskRequest { images: 3, grid, guide: Guide::None, step: &step };
//! let mask = masker.sample(&request, &mut step.rng(Purpose::Mask, 0))?;
//! assert!((0..3).all(|row| mask.hidden(row).len() <= 6));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Write your own
//!
//! [`Masker`] has one method to write; its page does it in four lines. `examples/04_own_masker.rs` trains MAE with such a
//! masker, and `examples/own_tool.rs` gives it a name that configs and the command line know.
//!
//! # Features
//!
//! All are off by default and are passed on to `mim-core`: `cuda`, `cudnn` and `nccl` for GPUs, `mpi` for many
//! processes on CPUs. A program that depends on `mim-zoo` sets them there.
//!
//! With a clone next to your program:
//!
//! ```toml
//! [dependencies]
//! mim-masking = { path = "../mim/mim-masking" }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod blocks;
mod count;
mod draws;
mod fixed;
mod masker;
#[cfg(test)]
mod sampling;

pub use count::HiddenCount;
pub use fixed::FixedMasker;
pub use masker::{Guide, GuideKind, MaskRequest, Masker, MaskerSettings};

mim_core::parts! {
    /// Maskers that a config can name.
    pub fn maskers() -> dyn MaskerSettings as "masker";
    random => RandomMaskerConfig, RandomMasker;
    partial => PartialMaskerConfig, PartialMasker;
    cell => CellMaskerConfig, CellMasker, CellRounding;
    blockwise => BlockwiseMaskerConfig, BlockwiseMasker, OnStuck;
    rolled_block => RolledBlockMaskerConfig, RolledBlockMasker;
    ibot_block => IbotBlockMaskerConfig, IbotBlockMasker, IbotShape, RatioRange;
    disjoint => DisjointMaskerConfig, DisjointDraw, DisjointMasker;
    multi_block => MultiBlockMaskerConfig, BlockSizes, MultiBlockMasker, MultiBlocks;
    inverse_block => InverseBlockMaskerConfig, InverseBlockMasker;
    weighted => WeightedMaskerConfig, WeightedMasker;
    permutation => PermutationMaskerConfig, PermutationMasker;
    semantic_part => SemanticPartMaskerConfig, PartCounts, SemanticPartMasker;
    attention => AttentionMaskerConfig, AttentionDraws, AttentionMasker, AttentionMode;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::request;
    use mim_core::{PatchGrid, StepContext};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn every_masker_samples_the_same_mask_from_the_same_seed() {
        let step = StepContext::new(0);
        let scores: Vec<f32> = (0..4 * 196).map(|at| (at % 31) as f32).collect();
        let parts: Vec<u32> = (0..4 * 196).map(|at| at % 5).collect();
        for entry in maskers().iter() {
            let settings = entry.read(entry.info.defaults().unwrap()).unwrap();
            let draw = || {
                let mut rng = ChaCha8Rng::seed_from_u64(3);
                let masker = settings.build().unwrap();
                let rq = MaskRequest {
                    guide: match masker.guide() {
                        GuideKind::Parts => Guide::Parts(&parts),
                        _ => Guide::Scores(&scores),
                    },
                    ..request(&step, 4, PatchGrid::new(14, 14))
                };
                masker.sample(&rq, &mut rng).unwrap()
            };
            let mask = draw();
            assert_eq!(mask, draw(), "{}", entry.info.name);
            assert_eq!(mask.rows() % 4, 0, "{}", entry.info.name);
        }
    }
}
