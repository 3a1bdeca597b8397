//! BEiT: BERT Pre-Training of Image Transformers (Bao et al., ICLR 2022, arXiv 2106.08254).
//!
//! Blocks of patches are replaced by a mask token; one linear layer predicts the token that a discrete VAE
//! gives each of them. Reference: microsoft/unilm @ 768a3c8, `beit`.

use mim_core::augment::{Augment, ColorJitter, HorizontalFlip, ViewPlan};
use mim_core::decoders::LinearDecoder;
use mim_core::encoders::{RelPosBiasKind, Vit, VitConfig};
use mim_core::nn::{PosEmbedKind, QkvBias};
use mim_core::objectives::CrossEntropyConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, Result};
use mim_masking::BlockwiseMaskerConfig;
use mim_targets::dvae::DvaeConfig;
use mim_targets::{BuiltTarget, TargetContext, TargetSettings, TokensConfig};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Settings of BEiT; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BeitConfig {
    /// The masks. Default: blocks of at least 16 patches up to 75 of 14x14.
    pub masker: BlockwiseMaskerConfig,
    /// How the weights start. Default `beit`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation, of which view 1 is the tokenizer's. Default: colour jitter, flip, and a random box (scale 0.08 to
    /// 1) in two sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default: shared relative bias, no positions, layer scale, biases of query and value.
    pub encoder: VitConfig,
    /// The tokenizer. Default: the discrete VAE of DALL-E, whose weights must be given.
    pub target: TokensConfig,
}

impl Default for BeitConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default(), 0.1)
    }
}

/// BEiT's variant of a ViT, which data2vec has too.
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

/// Colours as BEiT and data2vec change them, and a flip.
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

/// Height and width of the view of which the discrete VAE makes one token a patch.
pub(crate) fn tokenizer_view(encoder: &VitConfig) -> Result<(usize, usize)> {
    let (grid, side) = (encoder.grid()?, DvaeConfig::STRIDE);
    Ok((grid.rows * side, grid.cols * side))
}

/// Refuses an encoder whose hidden patches nothing can stand for.
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

    /// The method with this tokenizer in place of the one that the settings name.
    pub(crate) fn compose(&self, student: &ParamStore, target: BuiltTarget) -> Result<Composite> {
        self.encoder.validate()?;
        self.norm.check(self.encoder.in_channels)?;
        needs_mask_token("beit", &self.encoder)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let decoder = LinearDecoder::new(&params, self.encoder.output_dim(), target.values)?;
        let views = match &self.views {
            Some(views) => views.clone(),
            None => ViewPlan::with_tokenizer(
                jitter_and_flip(),
                size.into(),
                tokenizer_view(&self.encoder)?,
            ),
        };
        let masker = self.masker.build()?;
        let composite = Composite::builder("beit", student, encoder, masker, MaskMode::Replace)
            .input(size, self.norm.clone(), views)
            .target("tokens", target.generator)
            .branch(
                ("token", "tokens"),
                decoder,
                CrossEntropyConfig::default().build(),
                Schedule::constant(1.),
            );
        match target.note {
            Some(note) => composite.note(note).build(),
            None => composite.build(),
        }
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
        let target = self.target.build(&TargetContext {
            student,
            encoder: &self.encoder,
            norm: &self.norm,
            attention: false,
        })?;
        self.compose(student, target)
    }
}

/// What the registry says of it.
pub(crate) const ENTRY: Entry = Entry {
    title: "BEiT: BERT Pre-Training of Image Transformers",
    paper: "Bao et al., ICLR 2022, arXiv 2106.08254",
    reference: "microsoft/unilm @ 768a3c8",
    archs: crate::registry::VITS,
    status: "exact: tokens, forward, loss, gradients, step",
    recipes: recipes!("beit_32px", "beit_base"),
    parity: crate::parity::beit::setup,
    ..Entry::new::<BeitConfig>("beit")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

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
        config.target.network = DvaeConfig {
            n_hid: 4,
            n_blk_per_group: 1,
            vocab_size: 24,
            ..DvaeConfig::default()
        };
        config
    }

    #[test]
    fn base_and_large_are_as_published() {
        let mut base = BeitConfig::default();
        let released = base.target.network.vocab_size;
        base.target = TokensConfig {
            network: DvaeConfig {
                vocab_size: released,
                ..tiny().target.network
            },
            ..tiny().target
        };
        // Only the shapes count.
        let store = ParamStore::teacher(&Device::Cpu);
        base.build(&store).unwrap();
        let all = store.parameters();
        let values: usize = all.iter().map(|(_, var)| var.elem_count()).sum();
        // A ViT-B/16 without classifier, its positions and its biases of keys taken away; two layer scales a block, a
        // table of 27 * 27 + 3 rows, a mask token and a head for 8192 tokens added.
        let trunk = 85_798_656 - 197 * 768 - 12 * 768;
        assert_eq!(values, trunk + 24 * 768 + 732 * 12 + 768 + 8192 * (768 + 1));
        let large = BeitConfig::arch("vit_large").unwrap().encoder;
        assert_eq!(
            (large.layer_scale_init, large.depth, large.rel_pos_bias),
            (Some(1e-5), 24, RelPosBiasKind::Shared)
        );
    }

    #[test]
    fn bad_settings_are_named() {
        type Wrong = (&'static str, fn(&mut BeitConfig));
        let wrong: [Wrong; 5] = [
            ("`encoder.mask_token` is false", |c| {
                c.encoder.mask_token = false;
            }),
            ("`checkpoint` is not set", |c| {
                c.target.checkpoint = String::new();
            }),
            ("`vocab_size` is 0", |c| c.target.network.vocab_size = 0),
            ("give the tokenizer a view of 32x32 pixels", |c| {
                c.views = Some(ViewPlan::with_tokenizer(vec![], (32, 32), (24, 32)));
            }),
            ("target.view = 2", |c| c.target.view = 2),
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
