//! VQ-KD, the tokenizer of BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers (Peng et al., 2022,
//! arXiv 2208.06366).
//!
//! A vision transformer maps patches to vectors, a codebook replaces each by its nearest code, and a small transformer
//! predicts the features of a teacher (CLIP) from the codes. Reference: microsoft/unilm @ 768a3c8, `beit2`.

mod golden;
mod method;

use mim_core::augment::{RandomResizedCrop, ViewPlan};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::CodebookConfig;
use mim_core::objectives::{CosineConfig, Region};
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::{Encoder, Error, ImageSize, Input, Norm, PatchGrid, Result};
use mim_targets::vqkd::{TaskLayer, VqKdTokenizer, VqKdTokenizerConfig};
use mim_targets::{FeatureTarget, TargetGenerator};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{FrozenConfig, MethodConfig};
use method::Head;
pub use method::VqKd;

const NAME: &str = "vqkd";

/// Sizes of the decoder; all other settings are those of the encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VqKdDecoderConfig {
    /// Width of the tokens. Default 768.
    pub embed_dim: usize,
    /// Number of blocks. Default 3.
    pub depth: usize,
    /// Attention heads. Default 12.
    pub num_heads: usize,
}

impl Default for VqKdDecoderConfig {
    fn default() -> Self {
        Self {
            embed_dim: 768,
            depth: 3,
            num_heads: 12,
        }
    }
}

/// Settings of VQ-KD; `Default` is the released tokenizer, ViT-B/16 with CLIP as teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VqKdConfig {
    /// Weight of the distance between vectors and their codes. Default 1.
    pub commitment_weight: f64,
    /// Initialisation of the weights. Default `beit`.
    pub init: Init,
    /// Augmentation. Default: random resized crop (scale 0.08 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder.
    pub encoder: VitConfig,
    /// The codebook.
    pub codebook: CodebookConfig,
    /// The decoder of the teacher's features.
    pub decoder: VqKdDecoderConfig,
    /// The teacher. Default: CLIP with its own normalisation; its weights must be given.
    pub target: FrozenConfig,
}

impl Default for VqKdConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl VqKdConfig {
    fn with_encoder(size: VitConfig) -> Self {
        Self {
            commitment_weight: 1.,
            init: Init::Beit,
            views: None,
            decoder: VqKdDecoderConfig {
                embed_dim: size.embed_dim,
                num_heads: size.num_heads,
                ..VqKdDecoderConfig::default()
            },
            encoder: VqKdTokenizerConfig::vit(size),
            codebook: CodebookConfig::default(),
            target: FrozenConfig {
                norm: Some(Norm::clip()),
                ..FrozenConfig::default()
            },
        }
    }

    fn tokenizer(&self) -> VqKdTokenizerConfig {
        VqKdTokenizerConfig {
            encoder: self.encoder.clone(),
            codebook: self.codebook.clone(),
        }
    }

    /// The same transformer over a map of codes, where each code is a patch.
    fn decoder(&self, grid: PatchGrid) -> VitConfig {
        VitConfig {
            image_size: ImageSize {
                height: grid.rows,
                width: grid.cols,
            },
            patch_size: 1,
            in_channels: self.codebook.dim,
            embed_dim: self.decoder.embed_dim,
            depth: self.decoder.depth,
            num_heads: self.decoder.num_heads,
            ..self.encoder.clone()
        }
    }

    fn plan(&self) -> ViewPlan {
        let crop = RandomResizedCrop {
            size: <(usize, usize)>::from(self.encoder.image_size).into(),
            scale: [0.08, 1.],
            ..RandomResizedCrop::default()
        };
        let plan = self.views.clone();
        plan.unwrap_or_else(|| ViewPlan::crop_and_flip(crop))
            .with_channels(self.encoder.in_channels)
    }

    /// The method with a target of `values` values per patch, or without one for a tokenizer that is not trained.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        target: Option<(Box<dyn TargetGenerator>, usize)>,
    ) -> Result<VqKd> {
        if !self.commitment_weight.is_finite() || self.commitment_weight < 0. {
            let (field, why) = (
                "commitment_weight",
                "a weight must be finite and not negative",
            );
            let value = self.commitment_weight;
            return Err(Error::config(NAME, field, value, why, "use 1"));
        }
        let (root, grid) = (student.root(), self.encoder.grid()?);
        let (config, size) = (self.tokenizer(), self.encoder.image_size);
        let tokenizer = VqKdTokenizer::new(&root, &config)?;
        let decoder = self.decoder(grid);
        let head = |(target, values): (Box<dyn TargetGenerator>, usize)| {
            target.check(grid, &[(size.height, size.width)])?;
            let width = decoder.output_dim();
            Ok::<_, Error>(Head {
                decoder: Vit::new(&root.pp("decoder"), &decoder)?,
                task: TaskLayer::new(&root.pp("decode_task_layer"), width, values)?,
                target,
            })
        };
        Ok(VqKd {
            student: student.clone(),
            input: Input {
                size,
                norm: config.norm(),
            },
            views: self.plan(),
            tokenizer,
            head: target.map(head).transpose()?,
            objective: CosineConfig {
                offset: 1.,
                eps: 1e-12,
                region: Region::All,
                ..CosineConfig::default()
            }
            .build()?,
            commitment_weight: self.commitment_weight,
            note: None,
        })
    }
}

impl MethodConfig for VqKdConfig {
    type Method = VqKd;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<VqKd> {
        if !student.trains() {
            return self.compose(student, None);
        }
        let teacher = self
            .target
            .open_for(student.device(), self.encoder.in_channels)?;
        let values = teacher.dim();
        let features = self.target.features(&self.tokenizer().norm());
        let target = Box::new(FeatureTarget::new(teacher, features)?);
        Ok(VqKd {
            note: Some(self.target.note()),
            ..self.compose(student, Some((target, values)))?
        })
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "BEiT v2's tokenizer: Vector-Quantized Knowledge Distillation",
    paper: "Peng et al., 2022, arXiv 2208.06366",
    reference: "microsoft/unilm @ 768a3c8, beit2",
    archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
    about: crate::registry::About {
        hidden: "nothing",
        predicted: "the features of a teacher (CLIP), from codes",
        by: "a transformer on the codes",
        loss: "cosine distance and commitment",
        choose: "Trains BEiT v2's tokenizer on your images.",
    },
    status: "exact: forward, losses, gradients, codebook",
    recipes: recipes!("vqkd_32px", "vqkd_base"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<VqKdConfig>("vqkd")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::{Method, StepContext};

    fn tiny(more: &str) -> VqKdConfig {
        let text = format!(
            "encoder = {{ image_size = 16, patch_size = 8, embed_dim = 8, depth = 1, num_heads = 2 }}
             codebook = {{ size = 4, dim = 4 }}
             decoder = {{ embed_dim = 8, depth = 1, num_heads = 2 }}
             {more}
             [target]
             checkpoint = \"random\"
             encoder = {{ type = \"vit\", image_size = 16, patch_size = 8, embed_dim = 12, depth = 1, num_heads = 2 }}"
        );
        let entry = crate::registry::method("vqkd").unwrap();
        entry
            .resolve(text.parse().unwrap())
            .unwrap()
            .try_into()
            .unwrap()
    }

    #[test]
    fn a_tokenizer_that_is_not_trained_needs_neither_decoder_nor_teacher() {
        let mut config = tiny("");
        let trained = config.store(&Device::Cpu, 0);
        config.build(&trained).unwrap();
        assert!(trained.var("decode_task_layer.2.weight").is_some());
        config.target.checkpoint = "no/such/file".to_owned();
        let store = ParamStore::teacher(&Device::Cpu);
        let method = config.build(&store).unwrap();
        assert!(store.var("decode_task_layer.2.weight").is_none());
        let images =
            candle_core::Tensor::zeros((1, 3, 16, 16), candle_core::DType::F32, &Device::Cpu);
        let step = StepContext::inference();
        let tokens = method.tokenizer().unwrap().tokens(&images.unwrap(), &step);
        assert_eq!(tokens.unwrap().dims(), [1, 2, 2]);
    }

    #[test]
    fn invalid_settings_are_named() {
        for (commitment_weight, part) in [
            (-1., "`commitment_weight` is -1"),
            (f64::NAN, "`commitment_weight` is NaN"),
        ] {
            let config = VqKdConfig {
                commitment_weight,
                ..tiny("")
            };
            let error = config.build(&config.store(&Device::Cpu, 0)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
