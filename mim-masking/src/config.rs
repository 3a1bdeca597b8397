//! Any masker, as a setting.

use mim_core::Result;
use serde::{Deserialize, Serialize};

use crate::{
    AttentionMaskerConfig, BlockwiseMaskerConfig, CellMaskerConfig, DisjointMaskerConfig,
    IbotBlockMaskerConfig, Masker, RandomMaskerConfig, RolledBlockMaskerConfig,
    WeightedMaskerConfig,
};

/// A masker by its `type`: `random`, `cell`, `blockwise`, `rolled_block`, `ibot_block`,
/// `disjoint`, `weighted` or `attention`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MaskerConfig {
    /// [`crate::RandomMasker`].
    Random(RandomMaskerConfig),
    /// [`crate::CellMasker`].
    Cell(CellMaskerConfig),
    /// [`crate::BlockwiseMasker`].
    Blockwise(BlockwiseMaskerConfig),
    /// [`crate::RolledBlockMasker`].
    RolledBlock(RolledBlockMaskerConfig),
    /// [`crate::IbotBlockMasker`].
    IbotBlock(IbotBlockMaskerConfig),
    /// [`crate::DisjointMasker`].
    Disjoint(DisjointMaskerConfig),
    /// [`crate::WeightedMasker`].
    Weighted(WeightedMaskerConfig),
    /// [`crate::AttentionMasker`].
    Attention(AttentionMaskerConfig),
}

impl MaskerConfig {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] naming the setting.
    pub fn build(&self) -> Result<Box<dyn Masker>> {
        Ok(match self {
            Self::Random(config) => Box::new(config.build()?),
            Self::Cell(config) => Box::new(config.build()?),
            Self::Blockwise(config) => Box::new(config.build()?),
            Self::RolledBlock(config) => Box::new(config.build()?),
            Self::IbotBlock(config) => Box::new(config.build()?),
            Self::Disjoint(config) => Box::new(config.build()?),
            Self::Weighted(config) => Box::new(config.build()?),
            Self::Attention(config) => Box::new(config.build()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::request;
    use mim_core::{PatchGrid, StepContext};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn all() -> [MaskerConfig; 6] {
        [
            MaskerConfig::Random(RandomMaskerConfig::default()),
            MaskerConfig::Cell(CellMaskerConfig::default()),
            MaskerConfig::Blockwise(BlockwiseMaskerConfig::default()),
            MaskerConfig::RolledBlock(RolledBlockMaskerConfig::default()),
            MaskerConfig::IbotBlock(IbotBlockMaskerConfig::default()),
            MaskerConfig::Attention(AttentionMaskerConfig::default()),
        ]
    }

    #[test]
    fn every_config_survives_json_and_samples_the_same_mask_from_the_same_seed() {
        let step = StepContext::new(0);
        for config in all() {
            let text = serde_json::to_string(&config).unwrap();
            let back: MaskerConfig = serde_json::from_str(&text).unwrap();
            assert_eq!(back, config, "{text}");
            let draw = |config: &MaskerConfig| {
                let mut rng = ChaCha8Rng::seed_from_u64(3);
                let scores: Vec<f32> = (0..4 * 196).map(|at| (at % 31) as f32).collect();
                let rq = crate::MaskRequest {
                    guide: crate::Guide::Scores(&scores),
                    ..request(&step, 4, PatchGrid::new(14, 14))
                };
                config.build().unwrap().sample(&rq, &mut rng).unwrap()
            };
            assert_eq!(draw(&back), draw(&config));
            assert_eq!(draw(&config).rows(), 4);
        }
    }

    #[test]
    fn the_type_alone_is_the_papers_recipe_and_misspelt_fields_are_refused() {
        let parse = serde_json::from_str::<MaskerConfig>;
        assert_eq!(parse(r#"{"type":"random"}"#).unwrap(), all()[0]);
        assert_eq!(parse(r#"{"type":"blockwise"}"#).unwrap(), all()[2]);
        let error = parse(r#"{"type":"random","mask_raito":0.5}"#).unwrap_err();
        assert!(error.to_string().contains("mask_raito"), "{error}");
        let error = parse(r#"{"type":"randon"}"#).unwrap_err();
        assert!(error.to_string().contains("`random`"), "{error}");
    }
}
