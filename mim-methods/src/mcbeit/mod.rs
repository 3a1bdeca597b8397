//! mc-BEiT: Multi-choice Discretization for Image BERT Pre-training (Li et al., ECCV 2022, arXiv 2203.15371).
//!
//! BEiT with soft labels: the tokenizer's softened probabilities for each patch, mixed with those of other patches of
//! the image that are similar in the student's features. Reference: lixiaotong97/mc-BEiT @ 37489a1.

mod golden;

use mim_core::augment::{Augment, HorizontalFlip, ViewPlan};
use mim_core::decoders::LinearDecoder;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::objectives::CrossEntropyConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Norm, Result, Tokenizer};
use mim_masking::{BlockwiseMaskerConfig, Masker, RandomMaskerConfig};
use mim_targets::vqgan::VqganConfig;
use mim_targets::{SoftLabelsConfig, SoftTokenTarget};
use serde::{Deserialize, Serialize};

use crate::beit::{needs_mask_token, vit};
use crate::registry::Entry;
use crate::tokens::{self, TokenizerConfig};
use crate::{Composite, MaskMode, MethodConfig, TokensConfig};

/// The masker of mc-BEiT, selected by `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum McBeitMasker {
    /// Single patches.
    Random(RandomMaskerConfig),
    /// Blocks, as in BEiT.
    Blockwise(BlockwiseMaskerConfig),
}

/// Settings of mc-BEiT; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct McBeitConfig {
    /// The masks. Default: three quarters of the patches, at random.
    pub masker: McBeitMasker,
    /// How tokens become soft labels.
    pub labels: SoftLabelsConfig,
    /// Initialisation of the weights. Default `beit`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: flip and a random box (scale 0.08 to 1), resized for the encoder (bicubic) and for the
    /// tokenizer (Lanczos).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default BEiT's: ViT with shared relative bias, no positions, layer scale, biases for query and
    /// value.
    pub encoder: VitConfig,
    /// The tokenizer; it must provide logits. Default: a VQGAN with Gumbel softmax; its weights must be given.
    pub target: TokensConfig,
}

impl Default for McBeitConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl McBeitConfig {
    fn with_encoder(size: VitConfig) -> Self {
        let layer_scale = if size.depth > 12 { 1e-5 } else { 0.1 };
        Self {
            masker: McBeitMasker::Random(RandomMaskerConfig::default()),
            labels: SoftLabelsConfig::default(),
            init: Init::Beit,
            norm: Norm::imagenet(),
            views: None,
            encoder: vit(size, layer_scale),
            target: TokensConfig {
                source: "vqgan".to_owned(),
                network: TokenizerConfig::Vqgan(VqganConfig::default()),
                ..TokensConfig::default()
            },
        }
    }

    fn masker(&self) -> Result<Box<dyn Masker>> {
        Ok(match &self.masker {
            McBeitMasker::Random(config) => Box::new(config.build()?),
            McBeitMasker::Blockwise(config) => Box::new(config.build()?),
        })
    }

    fn plan(&self, tokens: (usize, usize)) -> ViewPlan {
        let flip = Augment::HorizontalFlip(HorizontalFlip::default());
        let image = self.encoder.image_size.into();
        let plan = self.views.clone();
        plan.unwrap_or_else(|| ViewPlan::with_tokenizer(vec![flip], image, tokens))
    }

    /// The method with this tokenizer.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        tokenizer: Box<dyn Tokenizer>,
    ) -> Result<Composite> {
        self.norm.check(self.encoder.in_channels)?;
        tokens::check(&tokenizer, self.encoder.in_channels, true)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        needs_mask_token("mcbeit", &self.encoder)?;
        let tokens = self.target.view(&tokenizer, size, self.encoder.grid()?)?;
        let vocab_size = tokenizer.vocab_size();
        let decoder = LinearDecoder::new(&params, self.encoder.embed_dim, vocab_size)?;
        let view = self.target.view.unwrap_or(1);
        let target = SoftTokenTarget::new(tokenizer, view, self.labels.clone())?;
        let (masker, plan) = (self.masker()?, self.plan(tokens.size));
        Composite::builder("mcbeit", student, encoder, masker, MaskMode::Replace)
            .input(size, self.norm.clone(), plan)
            .target("tokens", target)
            .branch(
                ("token", "tokens"),
                decoder,
                CrossEntropyConfig::default().build(),
                Schedule::constant(1.),
            )
            .note(self.target.note())
            .build()
    }
}

impl MethodConfig for McBeitConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.compose(student, self.target.open(student.device())?)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "mc-BEiT: Multi-choice Discretization for Image BERT Pre-training",
    paper: "Li et al., ECCV 2022, arXiv 2203.15371",
    reference: "lixiaotong97/mc-BEiT @ 37489a1",
    archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
    about: crate::registry::About {
        hidden: "75 % of the patches, at random; a mask token replaces them",
        predicted: "probabilities of tokens, shared among similar patches",
        by: "one linear layer",
        loss: "cross-entropy with soft labels",
        choose: "BEiT with softer targets.",
    },
    status: "exact with dVAE and VQGAN tokens: forward, soft labels, gradients, step",
    recipes: recipes!("mcbeit_32px", "mcbeit_base"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<McBeitConfig>("mcbeit")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::Method;
    use mim_targets::dvae::DvaeConfig;

    fn tiny(network: TokenizerConfig) -> McBeitConfig {
        let mut config = McBeitConfig::with_encoder(VitConfig {
            image_size: 16.into(),
            patch_size: 4,
            embed_dim: 8,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        });
        config.target = TokensConfig {
            checkpoint: "random".to_owned(),
            network,
            ..TokensConfig::default()
        };
        config
    }

    #[test]
    fn the_tokenizer_has_its_own_view() {
        let dvae = TokenizerConfig::Dvae(DvaeConfig {
            n_hid: 4,
            n_blk_per_group: 1,
            vocab_size: 5,
            ..DvaeConfig::default()
        });
        let config = tiny(dvae);
        let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let views = method.views(0).views;
        let Some(Augment::Resize(resize)) = views[1].first() else {
            panic!("{views:?}");
        };
        // 4x4 tokens of 8 pixels.
        assert_eq!(resize.size, (32, 32).into());
        let store = config.store(&Device::Cpu, 0);
        config.build(&store).unwrap();
        assert_eq!(store.var("decoder_pred.weight").unwrap().dims(), [5, 8]);
    }

    #[test]
    fn a_tokenizer_without_probabilities_is_refused() {
        let mut network = mim_targets::peco::PecoNetworkConfig {
            levels: 2,
            hidden_dim: 4,
            ..Default::default()
        };
        (network.codebook.size, network.codebook.dim) = (5, 3);
        let config = tiny(TokenizerConfig::Peco(network));
        let error = config.build(&config.store(&Device::Cpu, 0)).unwrap_err();
        assert!(error.to_string().contains("has no logits"), "{error}");
    }
}
