//! CrossMAE: Rethinking Patch Dependence for Masked Autoencoders (Fu et al., TMLR 2025, arXiv 2401.14391).
//!
//! MAE whose hidden patches attend to the encoder's tokens but not to each other, so only some of them need be
//! predicted. Each block of the decoder reads a trained mixture of all encoder blocks. Reference:
//! TonyLianLong/CrossMAE @ ed0677a.

use mim_core::augment::ViewPlan;
use mim_core::decoders::{CrossDecoder, CrossDecoderConfig, DecoderShape};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::objectives::RegressionConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, Result};
use mim_masking::PartialMaskerConfig;
use mim_targets::{PatchNorm, PixelTargetConfig};
use serde::{Deserialize, Serialize};

use crate::parity::golden::{Golden, MAE_DECODER, Masks, Output, Setting, VIT};
use crate::parity::{self, Case, Problem};
use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Settings of CrossMAE; `Default` is ViT-B/16 as trained by the release's own command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossMaeConfig {
    /// Fraction of patches dropped, in `(0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// Fraction of all patches that are predicted, at most `mask_ratio`. Default 0.25.
    pub pred_ratio: f64,
    /// Whether a learning rate that follows the batch size is multiplied by `pred_ratio / mask_ratio`. Default true.
    pub scale_lr: bool,
    /// Whether each patch's pixels are normalised by their own mean and deviation. Default true.
    pub norm_pix_loss: bool,
    /// Initialisation of the weights. Default `mae`.
    // Parity: the mixtures are initialised like all matrices, because the release initialises them a second time.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default: without a final norm.
    pub encoder: VitConfig,
    /// The decoder. Default: 12 blocks that read the outputs of all encoder blocks and the input of the first.
    pub decoder: CrossDecoderConfig,
}

impl Default for CrossMaeConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl CrossMaeConfig {
    fn with_encoder(size: VitConfig) -> Self {
        let decoder = CrossDecoderConfig {
            layers: (0..size.depth).collect(),
            ..CrossDecoderConfig::default()
        };
        Self {
            mask_ratio: 0.75,
            pred_ratio: 0.25,
            scale_lr: true,
            norm_pix_loss: true,
            init: Init::Mae,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig {
                final_norm: false,
                ..size
            },
            decoder,
        }
    }

    /// Settings of the masker.
    pub(crate) fn masker(&self) -> PartialMaskerConfig {
        PartialMaskerConfig {
            mask_ratio: self.mask_ratio,
            pred_ratio: self.pred_ratio,
        }
    }

    fn check(&self) -> Result<()> {
        self.norm.check(self.encoder.in_channels)?;
        self.encoder.validate()?;
        let (depth, layers) = (self.encoder.depth, &self.decoder.layers);
        if let Some(missing) = layers.iter().find(|layer| **layer >= depth) {
            let why = format!(
                "block {missing} does not exist: the encoder has blocks 0 to {}",
                depth - 1
            );
            let all: Vec<usize> = (0..depth).collect();
            let fix = format!("use decoder.layers = {all:?} for all of them");
            return Err(Error::config(
                "crossmae",
                "decoder.layers",
                format!("{layers:?}"),
                why,
                fix,
            ));
        }
        Ok(())
    }
}

impl MethodConfig for CrossMaeConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        let mut config = Self::with_encoder(VitConfig::arch(arch)?);
        if matches!(arch, "vit_tiny" | "vit_small") {
            (config.decoder.embed_dim, config.decoder.num_heads) = (256, 8);
        }
        Ok(config)
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.check()?;
        let masker = self.masker().build()?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let patch_norm = match self.norm_pix_loss {
            true => PatchNorm::default(),
            false => PatchNorm::None,
        };
        let target = PixelTargetConfig {
            norm: self.norm.clone(),
            patch_norm,
            ..Default::default()
        };
        let (dim, values) = (self.encoder.output_dim(), self.encoder.patch_values());
        let shape = DecoderShape::new(self.encoder.grid()?, dim, values);
        let decoder = CrossDecoder::new(&params, &self.decoder, shape)?;
        let views = self.views.clone();
        let views = views.unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(size)));
        let factor = match self.scale_lr {
            true => self.pred_ratio / self.mask_ratio,
            false => 1.,
        };
        Composite::builder("crossmae", student, encoder, masker, MaskMode::Drop)
            .input(size, self.norm.clone(), views)
            .batch_factor(factor)
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

/// Its golden cases.
const GOLDEN: Golden<CrossMaeConfig> = Golden {
    settings: &[
        Setting::Fixed("weight_fm", crate::parity::golden::Plain::Bool(true)),
        VIT,
        MAE_DECODER,
        Setting::Same("", "", &["mask_ratio", "norm_pix_loss"]),
        Setting::Renamed("kept_mask_ratio", "pred_ratio"),
        Setting::Renamed("use_input", "decoder.input"),
        Setting::Renamed("self_attn", "decoder.self_attention"),
    ],
    also: |case, config| {
        config.decoder.layers = layers(case, config.encoder.depth)?;
        Ok(())
    },
    masks: Masks::Noise(|config, grid, noise| config.masker().build()?.from_noise(grid, noise)),
    check: |made| {
        let (mask, visible) = (made.mask()?, made.mask()?.exact_keep()?);
        made.case.fixed("visible_tokens", visible)?;
        made.case
            .fixed("predicted_tokens", mask.width() - visible)?;
        made.case
            .fixed("skipped_tokens", mask.grid().len() - mask.width())
    },
    outputs: &[
        ("features", Output::Trace("pixel.features")),
        ("weighted", Output::Trace("pixel.weighted")),
        ("queries", Output::Trace("pixel.queries")),
        ("pred", Output::Trace("pred.pixel")),
        ("target", Output::HiddenOfEach("target.pixels")),
        ("decoder_*", Output::Trace("pixel.decoder*")),
    ],
    ..Golden::new("mae", |config| config.encoder.grid())
};

/// The encoder's blocks that `use_fm` of a case names, from the end where negative; a single -1 means all of them.
fn layers(case: &Case, depth: usize) -> parity::Result<Vec<usize>> {
    let named: Vec<i64> = case.setting_or("use_fm", vec![-1])?;
    if named == [-1] {
        return Ok((0..depth).collect());
    }
    let block = |&index: &i64| {
        let away = usize::try_from(index.unsigned_abs()).ok();
        let block = match index {
            0.. => away,
            _ => away.and_then(|back| depth.checked_sub(back)),
        };
        block.ok_or_else(|| Problem::unknown(format!("CrossMAE on block {index}")))
    };
    named.iter().map(block).collect()
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Rethinking Patch Dependence for Masked Autoencoders",
    paper: "Fu et al., TMLR 2025, arXiv 2401.14391",
    reference: "TonyLianLong/CrossMAE @ ed0677a",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "75 % of the patches, at random; a third of these are predicted, the others are not used",
        predicted: "the pixels of these patches, normalised patch by patch",
        by: "cross-attention alone: each block reads a trained mixture of all the encoder's blocks",
        loss: "mean squared error on predicted patches",
        choose: "MAE's accuracy with less work and memory in the decoder.",
    },
    status: "exact: mixtures, forward, loss, gradients, step",
    recipes: recipes!("crossmae_32px", "crossmae_base"),
    parity: |case, device| GOLDEN.setup(case, device),
    ..Entry::new::<CrossMaeConfig>("crossmae")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::Method;

    fn tiny() -> CrossMaeConfig {
        let mut config = CrossMaeConfig::with_encoder(VitConfig {
            image_size: 32.into(),
            patch_size: 8,
            embed_dim: 16,
            depth: 2,
            num_heads: 2,
            ..VitConfig::default()
        });
        config.decoder.embed_dim = 8;
        config.decoder.depth = 3;
        config.decoder.num_heads = 2;
        config
    }

    #[test]
    fn parameter_counts_match_the_formulas() {
        // Trainable parameters; those of the release at 224 pixels, with 12 blocks in the decoder.
        let count =
            |patch: usize, (dim, depth): (usize, usize), (width, blocks): (usize, usize)| {
                let encoder = (patch + 1) * dim + dim + depth * (12 * dim * dim + 13 * dim);
                let cross = 2 * width * width + 2 * width + 2 * (dim + 1) * width;
                let mlp = 8 * width * width + 5 * width;
                let block = cross + mlp + 4 * width + 2 * dim;
                let rest = width + 2 * width + (width + 1) * patch + blocks * (depth + 1);
                encoder + blocks * block + rest
            };
        let config = tiny();
        let store = config.store(&Device::Cpu, 0);
        config.build(&store).unwrap();
        assert_eq!(store.trainable_values(), count(192, (16, 2), (8, 3)));
        assert_eq!(count(768, (384, 12), (256, 12)), 32_060_316);
        assert_eq!(count(768, (768, 12), (512, 12)), 127_034_268);
        assert_eq!(count(768, (1024, 24), (512, 12)), 347_638_316);
        assert_eq!(count(588, (1280, 32), (512, 12)), 678_033_368);
        let large = CrossMaeConfig::arch("vit_large").unwrap();
        assert_eq!((large.decoder.layers.len(), large.decoder.depth), (24, 12));
        let small = CrossMaeConfig::arch("vit_small").unwrap();
        assert_eq!((small.decoder.embed_dim, small.decoder.num_heads), (256, 8));
    }

    #[test]
    fn the_learning_rate_scales_with_the_predicted_share() {
        let factor = |config: &CrossMaeConfig| {
            let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
            method.batch_factor()
        };
        assert_eq!(factor(&tiny()), 1. / 3.);
        let plain = CrossMaeConfig {
            scale_lr: false,
            ..tiny()
        };
        assert_eq!(factor(&plain), 1.);
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut CrossMaeConfig));
        let wrong: [Wrong; 4] = [
            ("use decoder.layers = [0, 1]", |c| {
                c.decoder.layers = vec![2]
            }),
            ("`pred_ratio` is 0.8", |c| c.pred_ratio = 0.8),
            ("`mask_ratio` is 1", |c| c.mask_ratio = 1.),
            ("`depth` is 0", |c| c.encoder.depth = 0),
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
