//! EVA: Exploring the Limits of Masked Visual Representation Learning at Scale (Fang et al., CVPR 2023, arXiv
//! 2211.07636).
//!
//! CLIP's features of hidden patches are predicted, compared by cosine. The style is BEiT's (EVA): blocks of patches
//! are replaced by a mask token, with one linear layer; or MAE's (EVA-L): most patches are dropped, with a light
//! decoder. Reference: baaivision/EVA @ 5623d08, `EVA-01/eva`.

mod golden;

use mim_core::augment::ViewPlan;
use mim_core::decoders::{DecoderShape, LinearDecoder, MaeDecoder, MaeDecoderConfig};
use mim_core::encoders::{EncoderConfig, Vit, VitConfig};
use mim_core::nn::{PosEmbedKind, QkvBias};
use mim_core::objectives::CosineConfig;
use mim_core::params::{Init, InitScheme, ParamStore, Params};
use mim_core::schedule::Schedule;
use mim_core::{Decoder, Encoder, Norm, Result};
use mim_masking::{BlockwiseMaskerConfig, Masker, RandomMaskerConfig};
use mim_targets::FeatureTarget;
use serde::{Deserialize, Serialize};

use crate::beit::needs_mask_token;
use crate::registry::Entry;
use crate::{Composite, FrozenConfig, MaskMode, MethodConfig};

/// Settings of EVA; `Default` is the giant as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaConfig {
    /// How hidden patches are masked and what predicts them. Default `beit`.
    pub style: EvaStyle,
    /// Initialisation of the weights. Default: `eva` in BEiT's style, `mae` in MAE's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Normalisation of the images. Default CLIP's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default: the giant, with trained positions, biases for query and value, and a mask token.
    pub encoder: VitConfig,
    /// The teacher. Default: CLIP's ViT-L/14 on the same images; its weights must be given.
    pub target: FrozenConfig,
}

/// How hidden patches are masked and what predicts them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EvaStyle {
    /// A mask token replaces them; one linear layer predicts.
    Beit(EvaBeitStyle),
    /// They are dropped; MAE's decoder predicts.
    Mae(EvaMaeStyle),
}

/// Settings of [`EvaStyle::Beit`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaBeitStyle {
    /// The masks. Default: blocks of at least 16 patches up to 105 of 16x16.
    pub masker: BlockwiseMaskerConfig,
}

/// Settings of [`EvaStyle::Mae`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaMaeStyle {
    /// Fraction of patches dropped, in `[0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// The decoder. Default: MAE's with four blocks.
    pub decoder: MaeDecoderConfig,
}

impl Default for EvaBeitStyle {
    fn default() -> Self {
        Self {
            masker: BlockwiseMaskerConfig::eva(),
        }
    }
}

impl Default for EvaMaeStyle {
    fn default() -> Self {
        Self {
            mask_ratio: 0.75,
            decoder: MaeDecoderConfig {
                depth: 4,
                ..MaeDecoderConfig::default()
            },
        }
    }
}

impl Default for EvaConfig {
    fn default() -> Self {
        Self::in_beit_style(giant())
    }
}

/// ViT-g/14 of EVA.
fn giant() -> VitConfig {
    VitConfig {
        patch_size: 14,
        embed_dim: 1408,
        depth: 40,
        num_heads: 16,
        mlp_ratio: 6144. / 1408.,
        ..VitConfig::default()
    }
}

impl EvaConfig {
    fn in_beit_style(size: VitConfig) -> Self {
        Self {
            style: EvaStyle::Beit(EvaBeitStyle::default()),
            init: None,
            norm: Norm::clip(),
            views: None,
            encoder: VitConfig {
                qkv_bias: QkvBias::QV,
                drop_path_rate: 0.1,
                pos_embed: PosEmbedKind::Learned,
                mask_token: true,
                ..size
            },
            target: FrozenConfig {
                encoder: EncoderConfig::Vit(VitConfig::clip_large()),
                ..FrozenConfig::default()
            },
        }
    }

    /// EVA-L: MAE's ViT with patches of 14 pixels.
    fn in_mae_style(size: VitConfig) -> Self {
        Self {
            style: EvaStyle::Mae(EvaMaeStyle::default()),
            encoder: VitConfig {
                patch_size: 14,
                ..size
            },
            ..Self::default()
        }
    }

    /// The masker, and a decoder with `outputs` values per patch.
    fn parts(&self, params: &Params, outputs: usize) -> Result<Parts> {
        let dim = self.encoder.output_dim();
        Ok(match &self.style {
            EvaStyle::Beit(style) => {
                needs_mask_token("eva", &self.encoder)?;
                Parts {
                    mode: MaskMode::Replace,
                    masker: Box::new(style.masker.build()?),
                    decoder: Box::new(LinearDecoder::new(params, dim, outputs)?),
                }
            }
            EvaStyle::Mae(style) => {
                let masker = RandomMaskerConfig {
                    mask_ratio: style.mask_ratio,
                };
                let shape = DecoderShape::new(self.encoder.grid()?, dim, outputs);
                Parts {
                    mode: MaskMode::Drop,
                    masker: Box::new(masker.build()?),
                    decoder: Box::new(MaeDecoder::new(params, &style.decoder, shape)?),
                }
            }
        })
    }

    /// The method with this teacher instead of the one from the settings.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        teacher: Box<dyn Encoder>,
    ) -> Result<Composite> {
        self.encoder.validate()?;
        self.norm.check(self.encoder.in_channels)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let parts = self.parts(&params, teacher.dim())?;
        let views = self.views.clone();
        let views = views.unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(size)));
        let features = FeatureTarget::new(teacher, self.target.features(&self.norm))?;
        Composite::builder("eva", student, encoder, parts.masker, parts.mode)
            .input(size, self.norm.clone(), views)
            .target("features", features)
            .branch(
                ("feature", "features"),
                parts.decoder,
                // Parity: for EVA-L the release minimises the positive cosine, which only negates the decoder's output.
                CosineConfig::default().build()?,
                Schedule::constant(1.),
            )
            .note(self.target.note())
            .build()
    }
}

struct Parts {
    mode: MaskMode,
    masker: Box<dyn Masker>,
    decoder: Box<dyn Decoder>,
}

impl MethodConfig for EvaConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(match arch {
            "eva_giant" => Self::default(),
            "eva_large" => Self::in_mae_style(VitConfig::arch("vit_large")?),
            arch => Self::in_beit_style(VitConfig {
                patch_size: 14,
                ..VitConfig::arch(arch)?
            }),
        })
    }

    fn init(&self) -> Box<dyn InitScheme> {
        let own = match self.style {
            EvaStyle::Beit(_) => Init::Eva,
            EvaStyle::Mae(_) => Init::Mae,
        };
        self.init.unwrap_or(own).build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.compose(
            student,
            self.target
                .open_for(student.device(), self.encoder.in_channels)?,
        )
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "EVA: Exploring the Limits of Masked Visual Representation Learning at Scale",
    paper: "Fang et al., CVPR 2023, arXiv 2211.07636",
    reference: "baaivision/EVA @ 5623d08",
    archs: &[
        "eva_giant",
        "eva_large",
        "vit_tiny",
        "vit_small",
        "vit_base",
        "vit_large",
        "vit_huge",
    ],
    about: crate::registry::About {
        hidden: "about 40 % of the patches, in blocks (giant), or 75 % dropped (EVA-L)",
        predicted: "CLIP's features of the hidden patches",
        by: "one linear layer, or MAE's decoder",
        loss: "negative cosine",
        choose: "The strongest encoders, if a large CLIP teacher is available.",
    },
    status: "exact in both styles: CLIP's features, forward, loss, gradients; in BEiT's also step and learning rates",
    recipes: recipes!("eva_32px", "eva_giant", "eva_large"),
    parity: |case, device| golden::of(case).setup(case, device),
    ..Entry::new::<EvaConfig>("eva")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn teacher(patch_size: usize, outputs: usize) -> Box<dyn Encoder> {
        let config = VitConfig {
            image_size: 224.into(),
            patch_size,
            embed_dim: 8,
            depth: 1,
            num_heads: 1,
            projection_dim: Some(outputs),
            ..VitConfig::default()
        };
        let store = ParamStore::teacher(&Device::Cpu);
        Box::new(Vit::new(&store.root(), &config).unwrap())
    }

    #[test]
    fn both_have_the_published_sizes() {
        // Counted with one and with two blocks, since all blocks are alike.
        let values = |config: &EvaConfig, outputs: usize| {
            let with_depth = |depth: usize| -> usize {
                let mut short = config.clone();
                short.encoder.depth = depth;
                let store = ParamStore::teacher(&Device::Cpu);
                short.compose(&store, teacher(14, outputs)).unwrap();
                let all = store.parameters();
                all.iter().map(|(_, var)| var.elem_count()).sum()
            };
            let (one, two) = (with_depth(1), with_depth(2));
            one + (config.encoder.depth - 1) * (two - one)
        };
        assert_eq!(values(&EvaConfig::default(), 768), 1_012_229_632);
        let large = EvaConfig::arch("eva_large").unwrap();
        // The published counts exclude the fixed positions of encoder and decoder.
        let fixed = 257 * (1024 + 512);
        assert_eq!(values(&large, 1024) - fixed, 316_576_768);
    }

    #[test]
    fn teachers_with_another_grid_and_missing_mask_tokens_are_refused() {
        let mut config = EvaConfig::arch("vit_tiny").unwrap();
        config.encoder.depth = 1;
        let compose = |config: &EvaConfig, patch: usize| {
            config.compose(&config.store(&Device::Cpu, 0), teacher(patch, 8))
        };
        compose(&config, 14).unwrap();
        let error = compose(&config, 16).unwrap_err().to_string();
        assert!(error.contains("256x256 pixels"), "{error}");
        config.encoder.mask_token = false;
        let error = compose(&config, 14).unwrap_err().to_string();
        assert!(error.contains("`encoder.mask_token` is false"), "{error}");
        let error = config.build(&config.store(&Device::Cpu, 0)).unwrap_err();
        assert!(error.to_string().contains("clip-vit-large-patch14"));
    }
}
