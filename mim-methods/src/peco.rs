//! PeCo: Perceptual Codebook for BERT Pre-training of Vision Transformers (Dong et al., AAAI 2023, arXiv 2111.12710), by
//! the paper's text: no code was released.
//!
//! BEiT on the codes of [a tokenizer trained for it](crate::PecoTokenizerConfig).

use mim_core::Result;
use mim_core::params::{InitScheme, ParamStore};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{BeitConfig, Composite, MethodConfig, TokenizerConfig, TokensConfig};

/// Settings of PeCo: BEiT's. `Default` is ViT-B/16 with 8192 codes for 16x16 pixels; the tokenizer's weights must be
/// given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PecoConfig(pub BeitConfig);

impl PecoConfig {
    fn with(student: BeitConfig) -> Self {
        Self(BeitConfig {
            target: TokensConfig {
                // A tokenizer's run uses mim's own parameter names, as MAE does.
                source: "mae".to_owned(),
                network: TokenizerConfig::Peco(Default::default()),
                ..TokensConfig::default()
            },
            ..student
        })
    }
}

impl Default for PecoConfig {
    fn default() -> Self {
        Self::with(BeitConfig::default())
    }
}

impl MethodConfig for PecoConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with(BeitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.0.init()
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.0.build_as("peco", student)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "PeCo: Perceptual Codebook for BERT Pre-training of Vision Transformers",
    paper: "Dong et al., AAAI 2023, arXiv 2111.12710",
    reference: "none: no code was released",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "about 40 % of the patches, in blocks",
        predicted: "codes of a perceptual codebook",
        by: "one linear layer",
        loss: "cross-entropy over the codebook",
        choose: "BEiT with tokens that capture meaning rather than pixels.",
    },
    status: "by the paper's text: BEiT, which is exact, on the codes of `peco_tokenizer`",
    recipes: recipes!("peco_32px", "peco_base"),
    ..Entry::new::<PecoConfig>("peco")
};

#[cfg(test)]
mod tests {
    use candle_core::Device;

    #[test]
    fn one_view_suffices_if_a_code_covers_one_patch() {
        let text =
            "encoder = { image_size = 16, patch_size = 4, embed_dim = 8, depth = 1, num_heads = 2 }
            masker = { hidden = { type = \"patches\", count = 4 }, min_block = 1 }
            [target]
            checkpoint = \"random\"
            [target.network]
            levels = 2
            hidden_dim = 4
            codebook = { size = 5, dim = 3 }";
        let entry = crate::registry::method("peco").unwrap();
        let build = |text: &str| {
            let settings = entry.resolve(text.parse().unwrap()).unwrap();
            entry.build(settings, &Device::Cpu, 0)
        };
        let method = build(text).unwrap();
        assert_eq!((method.name(), method.views(0).views.len()), ("peco", 1));
        // Codes for 8x8 pixels need a larger view of the same box.
        let larger = build(&text.replace("levels = 2", "levels = 3")).unwrap();
        assert_eq!(larger.views(0).views.len(), 2);
    }
}
