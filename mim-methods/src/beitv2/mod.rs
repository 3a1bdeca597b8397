//! BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers (Peng et al., 2022, arXiv 2208.06366).
//!
//! BEiT on the tokens of [VQ-KD](crate::VqKdConfig). A second, shallow head predicts the same tokens from the class
//! token and the patches of an earlier block, so that the class token learns to carry the whole image. Reference:
//! microsoft/unilm @ 768a3c8, `beit2`.

mod golden;

use mim_core::augment::{RandomResizedCrop, ViewPlan};
use mim_core::decoders::{AggregationDecoder, AggregationDecoderConfig, LinearDecoder};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::objectives::CrossEntropyConfig;
use mim_core::params::{Draw, Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Norm, Result};
use mim_masking::BlockwiseMaskerConfig;
use mim_targets::{TargetGenerator, TokenTarget};
use serde::{Deserialize, Serialize};

use crate::beit::{needs_mask_token, vit};
use crate::registry::Entry;
use crate::tokens::{self, TokenView, TokenizerConfig};
use crate::{Composite, MaskMode, MethodConfig, TokensConfig};

/// Settings of BEiT v2; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BeitV2Config {
    /// The masks. Default: blocks of 75 of 14x14 patches.
    pub masker: BlockwiseMaskerConfig,
    /// The head that aggregates patches. Default: two blocks on the patches of the ninth.
    pub aggregation: AggregationDecoderConfig,
    /// Initialisation of the weights. Default `beit`; head blocks start like the encoder blocks they stand in for.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip; a tokenizer that needs another
    /// image size gets its own view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default: ViT with shared relative bias, no position embedding, layer scale, biases for query and
    /// value.
    pub encoder: VitConfig,
    /// The tokenizer. Default VQ-KD's; its weights must be given.
    pub target: TokensConfig,
}

impl Default for BeitV2Config {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl BeitV2Config {
    fn with_encoder(size: VitConfig) -> Self {
        // As released: deep encoders start with a smaller layer scale.
        let layer_scale = if size.depth > 12 { 1e-5 } else { 0.1 };
        // The ninth of 12 blocks, the 21st of 24.
        let early = if size.depth > 12 {
            size.depth - 3
        } else {
            size.depth * 3 / 4
        };
        Self {
            masker: BlockwiseMaskerConfig::default(),
            aggregation: AggregationDecoderConfig {
                layer: early.saturating_sub(1),
                ..AggregationDecoderConfig::default()
            },
            init: Init::Beit,
            norm: Norm::imagenet(),
            views: None,
            encoder: vit(size, layer_scale),
            target: TokensConfig {
                source: "vqkd".to_owned(),
                network: TokenizerConfig::Vqkd(Box::default()),
                ..TokensConfig::default()
            },
        }
    }

    /// One view for both networks, or one for each if they need different sizes.
    fn plan(&self, view: TokenView) -> ViewPlan {
        if let Some(views) = &self.views {
            return views.clone();
        }
        let crop = RandomResizedCrop {
            size: <(usize, usize)>::from(self.encoder.image_size).into(),
            ..RandomResizedCrop::default()
        };
        tokens::with_view(ViewPlan::crop_and_flip(crop), view)
    }

    /// The method with a target of `vocab_size` tokens, made from `view`.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        (target, vocab_size): (impl TargetGenerator + 'static, usize),
        view: TokenView,
    ) -> Result<Composite> {
        needs_mask_token("beitv2", &self.encoder)?;
        self.norm.check(self.encoder.in_channels)?;
        let params = student.root();
        let encoder = Vit::new(&params, &self.encoder)?;
        let main = LinearDecoder::new(&params, self.encoder.embed_dim, vocab_size)?;
        let second =
            AggregationDecoder::new(&params, &self.aggregation, &self.encoder, vocab_size)?;
        let objective = || CrossEntropyConfig::default().build();
        let once = || Schedule::constant(1.);
        Composite::builder(
            "beitv2",
            student,
            encoder,
            self.masker.build()?,
            MaskMode::Replace,
        )
        .input(self.encoder.image_size, self.norm.clone(), self.plan(view))
        .target("tokens", target)
        .branch(("token", "tokens"), main, objective(), once())
        .branch(("aggregation", "tokens"), second, objective(), once())
        .note(self.target.note())
        .build()
    }
}

/// The encoder's scheme; block `i` of the head is initialised like block `first + i` of the encoder.
struct WithHead {
    encoder: Box<dyn InitScheme>,
    first: usize,
}

impl InitScheme for WithHead {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        let block = name.strip_prefix("cls_pt_layers.");
        let place = block.and_then(|rest| {
            let (number, rest) = rest.split_once('.')?;
            let number: usize = number.parse().ok()?;
            Some(format!("blocks.{}.{rest}", self.first + number))
        });
        self.encoder.draw(place.as_deref().unwrap_or(name), shape)
    }
}

impl MethodConfig for BeitV2Config {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        Box::new(WithHead {
            encoder: self.init.build(self.encoder.patch_values()),
            first: self.aggregation.layer + 1,
        })
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        let tokenizer = self.target.open(student.device())?;
        tokens::check(&tokenizer, self.encoder.in_channels, false)?;
        let image = self.encoder.image_size;
        let view = self.target.view(&tokenizer, image, self.encoder.grid()?)?;
        let vocab_size = tokenizer.vocab_size();
        let target = TokenTarget::new(tokenizer, view.index);
        self.compose(student, (target, vocab_size), view)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers",
    paper: "Peng et al., 2022, arXiv 2208.06366",
    reference: "microsoft/unilm @ 768a3c8, beit2",
    archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
    about: crate::registry::About {
        hidden: "about 40 % of the patches, in blocks; a mask token replaces them",
        predicted: "the code of each hidden patch by a VQ-KD tokenizer",
        by: "one linear layer, and the same layer after two more blocks on the patches of an earlier block",
        loss: "cross-entropy of both",
        choose: "Better than BEiT in linear probing; needs a VQ-KD tokenizer.",
    },
    status: "exact with shared and own head: tokens, forward, losses, gradients",
    recipes: recipes!("beitv2_32px", "beitv2_base", "beitv2_large"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<BeitV2Config>("beitv2")
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_reads_the_block_of_the_paper() {
        let layer = |arch: &str| BeitV2Config::arch(arch).unwrap().aggregation.layer;
        assert_eq!([layer("vit_base"), layer("vit_large")], [8, 20]);
        let large = BeitV2Config::arch("vit_large").unwrap();
        assert_eq!(large.encoder.layer_scale_init, Some(1e-5));
        assert_eq!(BeitV2Config::default().encoder.layer_scale_init, Some(0.1));
    }

    #[test]
    fn head_blocks_are_initialised_like_encoder_blocks() {
        let config = BeitV2Config::default();
        let (own, plain) = (config.init(), Init::Beit.build(768));
        for rest in ["attn.proj.weight", "mlp.fc2.weight", "norm1.weight"] {
            let (shape, deep) = (&[768, 768][..], format!("blocks.10.{rest}"));
            let name = format!("cls_pt_layers.1.{rest}");
            assert_eq!(own.draw(&name, shape), plain.draw(&deep, shape));
        }
        let shape = &[8, 8][..];
        assert_eq!(
            own.draw("blocks.3.attn.proj.weight", shape),
            plain.draw("blocks.3.attn.proj.weight", shape)
        );
    }

    #[test]
    fn a_tokenizer_must_be_named_and_fit() {
        let build = |text: &str| {
            let entry = crate::registry::method("beitv2").unwrap();
            let config: BeitV2Config = entry
                .resolve(text.parse().unwrap())
                .unwrap()
                .try_into()
                .unwrap();
            let store = config.store(&candle_core::Device::Cpu, 0);
            config
                .build(&store)
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        let small = "encoder = { image_size = 32, patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2 }\n\
             aggregation = { layer = 0 }\nmasker = { hidden = { type = \"patches\", count = 6 }, min_block = 2 }\n";
        let network = |side: usize, patch: usize| {
            format!(
                "{small}[target]\ncheckpoint = \"random\"\n[target.network]\ntype = \"vqkd\"\n\
                 encoder = {{ image_size = {side}, patch_size = {patch}, embed_dim = 8, depth = 1, num_heads = 2 }}\n\
                 codebook = {{ size = 8, dim = 4 }}\n"
            )
        };
        build(&network(32, 8)).unwrap();
        // Patches of another size, but the same number of them.
        build(&network(16, 4)).unwrap();
        let error = build(&network(32, 4)).unwrap_err();
        assert!(
            error.contains("8x8 patches") && error.contains("16x16 pixels"),
            "{error}"
        );
        let error = build(small).unwrap_err();
        assert!(error.contains("mim pretrain --method vqkd"), "{error}");
    }
}
