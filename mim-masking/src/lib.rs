//! Maskers of mim: they select the hidden patches of an image.
//!
//! [`maskers`] lists those that a config can name, each with a description and its paper. [`FixedMasker`] returns a
//! given mask, for parity checks, pictures and tests.

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
