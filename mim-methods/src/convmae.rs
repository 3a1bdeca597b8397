//! ConvMAE: Masked Convolution Meets Masked Autoencoders (Gao et al., NeurIPS 2022 as MCMAE,
//! arXiv 2205.03892).
//!
//! MAE with an encoder of two convolution stages, whose depth-wise convolutions do not see hidden patches, and a
//! transformer on the visible tokens. Reference: Alpha-VL/ConvMAE @ 4c97b4c.

use mim_core::augment::ViewPlan;
use mim_core::decoders::{DecoderShape, MaeDecoder, MaeDecoderConfig};
use mim_core::encoders::{ConvMae, ConvMaeConfig as HybridConfig, ConvMaeInit};
use mim_core::objectives::RegressionConfig;
use mim_core::params::{InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Norm, Result};
use mim_masking::RandomMaskerConfig;
use mim_targets::{PatchNorm, PixelTargetConfig};
use serde::{Deserialize, Serialize};

use crate::parity::golden::{Golden, HYBRID, Masks, Output, Setting, hybrid, random_mask};
use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Settings of ConvMAE; `Default` is base as released, with the released initialisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvMaeConfig {
    /// Fraction of the last stage's tokens dropped, in `[0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// Whether each token's pixels are normalised by the token's mean and deviation. Default true.
    pub norm_pix_loss: bool,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder.
    pub encoder: HybridConfig,
    /// The decoder.
    pub decoder: MaeDecoderConfig,
}

impl Default for ConvMaeConfig {
    fn default() -> Self {
        Self {
            mask_ratio: 0.75,
            norm_pix_loss: true,
            norm: Norm::imagenet(),
            views: None,
            encoder: HybridConfig::default(),
            decoder: MaeDecoderConfig::default(),
        }
    }
}

impl MethodConfig for ConvMaeConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self {
            encoder: HybridConfig::arch(arch)?,
            ..Self::default()
        })
    }

    fn init(&self) -> Box<dyn InitScheme> {
        Box::new(ConvMaeInit(self.encoder.clone()))
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.norm.check(self.encoder.in_channels)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = ConvMae::new(&params, &self.encoder)?;
        let masker = RandomMaskerConfig {
            mask_ratio: self.mask_ratio,
        }
        .build()?;
        let patch_norm = match self.norm_pix_loss {
            true => PatchNorm::default(),
            false => PatchNorm::None,
        };
        let target = PixelTargetConfig {
            norm: self.norm.clone(),
            patch_norm,
            ..Default::default()
        };
        let (dim, values) = (self.encoder.dim(), self.encoder.patch_values());
        let shape = DecoderShape::new(self.encoder.grid()?, dim, values);
        let decoder = MaeDecoder::with_prefix(&params, &self.decoder, shape, 0)?;
        let views = self.views.clone();
        let views = views.unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(size)));
        Composite::builder("convmae", student, encoder, masker, MaskMode::Drop)
            .input(size, self.norm.clone(), views)
            .target("pixels", target.build()?)
            .branch(
                ("pixel", "pixels"),
                decoder,
                RegressionConfig::default().build()?,
                Schedule::constant(1.),
            )
            .build()
    }
}

/// Its golden cases, and those of its encoder.
pub(crate) const GOLDEN: Golden<ConvMaeConfig> = Golden {
    settings: &[
        HYBRID,
        Setting::Same("", "", &["mask_ratio", "norm_pix_loss"]),
    ],
    masks: Masks::Noise(|config, grid, noise| random_mask(config.mask_ratio, grid, noise)),
    check: |made| hybrid(&made.case, &made.config.encoder),
    outputs: &[
        ("mask", Output::Bits),
        ("ids_restore", Output::IdsRestore),
        ("stage*_fused", Output::ChannelsFirst("stage*_fused")),
        (
            "stage*_output_decode",
            Output::ChannelsFirst("stage*_fused"),
        ),
        ("patch_embed4", Output::Tokens("patch_embed4")),
        ("patch_embed*", Output::ChannelsFirst("patch_embed*")),
        ("stage*", Output::ChannelsFirst("stage*")),
        ("latent", Output::Trace("latent")),
        ("latent_visible", Output::Trace("latent")),
        ("pred", Output::Trace("pred.pixel")),
        ("target", Output::Trace("target.pixels")),
    ],
    ..Golden::new("convmae", |config| config.encoder.grid())
};

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "MCMAE: Masked Convolution Meets Masked Autoencoders",
    paper: "Gao et al., NeurIPS 2022, arXiv 2205.03892",
    reference: "Alpha-VL/ConvMAE @ 4c97b4c",
    archs: crate::registry::HYBRIDS,
    about: crate::registry::About {
        hidden: "75 % of the last stage's patches; convolutions see masks, the transformer drops tokens",
        predicted: "pixels, normalised patch by patch",
        by: "MAE's decoder on fused stages",
        loss: "mean squared error on hidden patches",
        choose: "Hybrid encoders with multi-scale features, for dense tasks.",
    },
    status: "exact: forward, loss, gradients",
    recipes: recipes!("convmae_32px", "convmae_base"),
    parity: |case, device| GOLDEN.setup(case, device),
    ..Entry::new::<ConvMaeConfig>("convmae")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::{Batch, Method, StepContext, View};

    fn tiny() -> ConvMaeConfig {
        ConvMaeConfig {
            encoder: HybridConfig {
                image_size: 32.into(),
                patch_sizes: [2, 2, 2],
                embed_dims: [4, 6, 8],
                depths: [1, 1, 1],
                num_heads: 2,
                ..HybridConfig::default()
            },
            decoder: MaeDecoderConfig {
                embed_dim: 8,
                depth: 1,
                num_heads: 2,
                ..MaeDecoderConfig::default()
            },
            ..ConvMaeConfig::default()
        }
    }

    #[test]
    fn base_is_as_published() {
        let base = ConvMaeConfig::default();
        assert_eq!(ConvMaeConfig::arch("convmae_base").unwrap(), base);
        let shape = |store: &ParamStore, name: &str| store.var(name).unwrap().dims().to_vec();
        let store = base.store(&Device::Cpu, 0);
        base.build(&store).unwrap();
        assert_eq!(shape(&store, "pos_embed"), [1, 196, 768]);
        assert_eq!(shape(&store, "decoder_pos_embed"), [1, 196, 512]);
        assert_eq!(shape(&store, "decoder_pred.weight"), [768, 512]);
        assert_eq!(shape(&store, "blocks1.1.mlp.fc1.weight"), [1024, 256]);
    }

    #[test]
    fn reconstructions_are_whole_images() {
        let config = tiny();
        let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let bytes: Vec<u8> = (0..3 * 32 * 32u32).map(|i| (i * i % 251) as u8).collect();
        let images = Tensor::from_vec(bytes, (1, 3, 32, 32), &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(images, vec![]).unwrap());
        let drawn = method.reconstruct(&batch, &StepContext::inference());
        assert_eq!(drawn.unwrap().reconstruction.dims(), [1, 3, 32, 32]);
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut ConvMaeConfig));
        let wrong: [Wrong; 5] = [
            ("`mask_ratio` is 1", |c| c.mask_ratio = 1.),
            ("multiples of the patch size 8", |c| {
                c.encoder.image_size = 36.into()
            }),
            ("`num_heads` is 3", |c| c.encoder.num_heads = 3),
            ("`num_heads` is 5", |c| c.decoder.num_heads = 5),
            ("`mlp_ratios`", |c| c.encoder.mlp_ratios[1] = 0.),
        ];
        for (what, spoil) in wrong {
            let mut config = tiny();
            spoil(&mut config);
            let built = config.build(&config.store(&Device::Cpu, 0));
            let error = built.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
