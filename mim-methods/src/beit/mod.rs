//! BEiT: BERT Pre-Training of Image Transformers (Bao et al., ICLR 2022, arXiv 2106.08254).
//!
//! Blocks of patches are replaced by a mask token; one linear layer predicts the token that a discrete VAE assigns to
//! each of them. Reference: microsoft/unilm @ 768a3c8, `beit`.

pub(crate) mod golden;

use mim_core::augment::{Augment, ColorJitter, HorizontalFlip, RandomResizedCrop, ViewPlan};
use mim_core::decoders::LinearDecoder;
use mim_core::encoders::{RelPosBiasKind, Vit, VitConfig};
use mim_core::nn::{PosEmbedKind, QkvBias};
use mim_core::objectives::CrossEntropyConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, ImageSize, Norm, Result};
use mim_masking::BlockwiseMaskerConfig;
use mim_targets::{TargetGenerator, TokenTarget};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::tokens::{self, TokenView};
use crate::{Composite, MaskMode, MethodConfig, TokensConfig};

/// Settings of BEiT; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BeitConfig {
    /// The masks. Default: blocks of at least 16 patches up to 75 of 14x14.
    pub masker: BlockwiseMaskerConfig,
    /// Initialisation of the weights. Default `beit`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: colour jitter, flip, and a random box (scale 0.08 to 1). Two sizes of that box if the
    /// tokenizer needs another size than the encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default: shared relative bias, no position embedding, layer scale, biases for query and value.
    pub encoder: VitConfig,
    /// The tokenizer. Default: the discrete VAE of DALL-E; its weights must be given.
    pub target: TokensConfig,
}

impl Default for BeitConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default(), 0.1)
    }
}

/// BEiT's variant of a ViT, also used by data2vec.
pub(crate) fn vit(size: VitConfig, layer_scale: f64) -> VitConfig {
    VitConfig {
        qkv_bias: QkvBias::QV,
        layer_scale_init: Some(layer_scale),
        drop_path_rate: 0.1,
        pos_embed: PosEmbedKind::None,
        rel_pos_bias: RelPosBiasKind::Shared,
        mask_token: true,
        ..size
    }
}

/// The colour jitter of BEiT and data2vec, and a flip.
pub(crate) fn jitter_and_flip() -> Vec<Augment> {
    vec![
        Augment::ColorJitter(ColorJitter {
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.,
            p: 1.,
        }),
        Augment::HorizontalFlip(HorizontalFlip::default()),
    ]
}

/// `ops`, then a random box (scale 0.08 to 1), in two sizes if the tokenizer has its own `view`.
pub(crate) fn crops(mut ops: Vec<Augment>, image: ImageSize, view: TokenView) -> ViewPlan {
    let image = <(usize, usize)>::from(image);
    if view.index > 0 {
        return ViewPlan::with_tokenizer(ops, image, view.size);
    }
    ops.push(Augment::RandomResizedCrop(RandomResizedCrop {
        size: image.into(),
        scale: [0.08, 1.],
        ..RandomResizedCrop::default()
    }));
    ViewPlan::single(ops)
}

/// Refuses an encoder without a mask token.
pub(crate) fn needs_mask_token(method: &'static str, encoder: &VitConfig) -> Result<()> {
    if encoder.mask_token {
        return Ok(());
    }
    let why = "hidden patches are replaced by a mask token";
    let (field, fix) = ("encoder.mask_token", "set it to true");
    Err(Error::config(method, field, false, why, fix))
}

impl BeitConfig {
    fn with_encoder(size: VitConfig, layer_scale: f64) -> Self {
        Self {
            masker: BlockwiseMaskerConfig::default(),
            init: Init::Beit,
            norm: Norm::imagenet(),
            views: None,
            encoder: vit(size, layer_scale),
            target: TokensConfig::default(),
        }
    }

    /// The method called `name`, with a target of `vocab_size` tokens made from `view`.
    pub(crate) fn compose(
        &self,
        name: &'static str,
        student: &ParamStore,
        (target, vocab_size): (impl TargetGenerator + 'static, usize),
        view: TokenView,
    ) -> Result<Composite> {
        self.encoder.validate()?;
        self.norm.check(self.encoder.in_channels)?;
        needs_mask_token(name, &self.encoder)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let decoder = LinearDecoder::new(&params, self.encoder.output_dim(), vocab_size)?;
        let masker = self.masker.build()?;
        let views = self.views.clone();
        let views = views.unwrap_or_else(|| crops(jitter_and_flip(), size, view));
        Composite::builder(name, student, encoder, masker, MaskMode::Replace)
            .input(size, self.norm.clone(), views)
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

    /// The method called `name`, with the tokenizer from the settings.
    pub(crate) fn build_as(&self, name: &'static str, student: &ParamStore) -> Result<Composite> {
        let tokenizer = self.target.open(student.device())?;
        tokens::check(&tokenizer, self.encoder.in_channels, false)?;
        let image = self.encoder.image_size;
        let view = self.target.view(&tokenizer, image, self.encoder.grid()?)?;
        let vocab_size = tokenizer.vocab_size();
        let target = TokenTarget::new(tokenizer, view.index);
        self.compose(name, student, (target, vocab_size), view)
    }
}

impl MethodConfig for BeitConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        // As released: deep encoders start with a smaller layer scale.
        let layer_scale = if arch == "vit_large" { 1e-5 } else { 0.1 };
        Ok(Self::with_encoder(VitConfig::arch(arch)?, layer_scale))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.build_as("beit", student)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "BEiT: BERT Pre-Training of Image Transformers",
    paper: "Bao et al., ICLR 2022, arXiv 2106.08254",
    reference: "microsoft/unilm @ 768a3c8",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "about 40 % of the patches, in blocks; a mask token replaces them",
        predicted: "the token of each hidden patch, by DALL-E's dVAE or another tokenizer",
        by: "one linear layer",
        loss: "cross-entropy over the codebook",
        choose: "The classic; needs a tokenizer that suits the images.",
    },
    status: "exact: tokens, forward, loss, gradients, step",
    recipes: recipes!("beit_32px", "beit_base"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<BeitConfig>("beit")
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenizerConfig;
    use candle_core::Device;
    use mim_targets::dvae::DvaeConfig;

    fn tiny() -> BeitConfig {
        let size = VitConfig {
            image_size: 32.into(),
            patch_size: 8,
            embed_dim: 16,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        };
        let mut config = BeitConfig::with_encoder(size, 0.1);
        config.target.checkpoint = "random".to_owned();
        config.target.network = dvae(24);
        config
    }

    fn dvae(vocab_size: usize) -> TokenizerConfig {
        TokenizerConfig::Dvae(DvaeConfig {
            n_hid: 4,
            n_blk_per_group: 1,
            vocab_size,
            ..DvaeConfig::default()
        })
    }

    #[test]
    fn base_and_large_are_as_published() {
        let target = TokensConfig {
            network: dvae(8192),
            ..tiny().target
        };
        let base = BeitConfig {
            target,
            ..BeitConfig::default()
        };
        // Only the shapes matter.
        let store = ParamStore::teacher(&Device::Cpu);
        base.build(&store).unwrap();
        let all = store.parameters();
        let values: usize = all.iter().map(|(_, var)| var.elem_count()).sum();
        // A ViT-B/16 without classifier, positions and key biases; plus two layer scales per block, a table of 27 * 27
        // + 3 rows, a mask token and a head for 8192 tokens.
        let trunk = 85_798_656 - 197 * 768 - 12 * 768;
        assert_eq!(values, trunk + 24 * 768 + 732 * 12 + 768 + 8192 * (768 + 1));
        let large = BeitConfig::arch("vit_large").unwrap().encoder;
        assert_eq!(
            (large.layer_scale_init, large.depth, large.rel_pos_bias),
            (Some(1e-5), 24, RelPosBiasKind::Shared)
        );
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut BeitConfig));
        let wrong: [Wrong; 5] = [
            ("`encoder.mask_token` is false", |c| {
                c.encoder.mask_token = false;
            }),
            ("`checkpoint` is not set", |c| {
                c.target.checkpoint = String::new();
            }),
            ("`vocab_size` is 0", |c| c.target.network = dvae(0)),
            ("give the tokenizer a view of 32x32 pixels", |c| {
                c.views = Some(ViewPlan::with_tokenizer(vec![], (32, 32), (24, 32)));
                c.target.view = Some(1);
            }),
            ("target.view = 2", |c| {
                c.views = Some(ViewPlan::with_tokenizer(vec![], (32, 32), (32, 32)));
                c.target.view = Some(2);
            }),
        ];
        for (what, spoil) in wrong {
            let mut config = tiny();
            spoil(&mut config);
            let built = config.build(&config.store(&Device::Cpu, 0));
            let error = built.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let config = tiny();
        config.build(&config.store(&Device::Cpu, 0)).unwrap();
    }
}
