//! The networks of tokenizers.

use mim_core::params::ParamStore;
use mim_core::weights::WeightMap;
use mim_core::{Error, Result, Tokenizer};
use mim_targets::dvae::{DvaeConfig, DvaeEncoder};
use mim_targets::peco::{PecoNetworkConfig, PecoTokenizer};
use mim_targets::vqgan::{VqganConfig, VqganEncoder};
use mim_targets::vqkd::{VqKdTokenizer, VqKdTokenizerConfig};
use serde::{Deserialize, Serialize};

/// The network of a tokenizer, selected by `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TokenizerConfig {
    /// DALL-E's discrete VAE.
    Dvae(DvaeConfig),
    /// BEiT v2's tokenizer.
    Vqkd(Box<VqKdTokenizerConfig>),
    /// PeCo's tokenizer.
    Peco(PecoNetworkConfig),
    /// A VQGAN with Gumbel softmax.
    Vqgan(VqganConfig),
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self::Dvae(DvaeConfig::default())
    }
}

impl TokenizerConfig {
    /// The network on its own store; its weights are not trainable.
    pub(super) fn build(&self, store: &ParamStore) -> Result<Box<dyn Tokenizer>> {
        let root = store.root();
        Ok(match self {
            Self::Dvae(config) => Box::new(DvaeEncoder::new(&root.pp("encoder"), config)?),
            Self::Vqkd(config) => Box::new(VqKdTokenizer::new(&root, config)?),
            Self::Peco(config) => Box::new(PecoTokenizer::new(&root, config)?),
            Self::Vqgan(config) => Box::new(VqganEncoder::new(&root, config)?),
        })
    }

    /// Refuses weights of another size, with the setting that would fit.
    pub(super) fn check_weights(&self, weights: &WeightMap) -> Result<()> {
        let sizes = |name: &str| weights.get(name).map(|tensor| tensor.dims().to_vec());
        let (codes, [size, dim]) = match self {
            Self::Dvae(config) => return config.check_weights(weights),
            Self::Vqgan(config) => {
                return check_vocabulary(config.vocab_size, sizes("quantize.proj.weight"));
            }
            Self::Vqkd(config) => (
                "quantize.embedding",
                [config.codebook.size, config.codebook.dim],
            ),
            Self::Peco(config) => (
                "codebook.embedding",
                [config.codebook.size, config.codebook.dim],
            ),
        };
        match sizes(codes) {
            Some(found) if found != [size, dim] => Err(Error::config(
                "target",
                "network.codebook",
                format!("{size} codes of width {dim}"),
                format!("the codebook of the weights has shape {found:?}"),
                "set target.network.codebook.size and .dim to that, or give other weights",
            )),
            _ => Ok(()),
        }
    }
}

fn check_vocabulary(size: usize, found: Option<Vec<usize>>) -> Result<()> {
    match found.and_then(|dims| dims.first().copied()) {
        Some(found) if found != size => Err(Error::config(
            "target",
            "network.vocab_size",
            size,
            format!("the weights have {found} tokens"),
            format!("set target.network.vocab_size = {found}, or give other weights"),
        )),
        _ => Ok(()),
    }
}
