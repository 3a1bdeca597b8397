//! MaskFeat: Masked Feature Prediction for Self-Supervised Visual Pre-Training (Wei et al., CVPR 2022,
//! arXiv 2112.09133).
//!
//! Blocks of patches are replaced by a mask token; one linear layer predicts their histograms of
//! oriented gradients. Reference: open-mmlab/mmpretrain @ ee7f2e8.

use mim_core::augment::{RandomResizedCrop, ViewPlan};
use mim_core::decoders::LinearDecoder;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::objectives::RegressionConfig;
use mim_core::params::{Draw, Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, Result};
use mim_masking::BlockwiseMaskerConfig;
use mim_targets::HogTargetConfig;
use serde::{Deserialize, Serialize};

use crate::parity::golden::{Golden, Output, QKV_BIAS, Setting, VIT};
use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Settings of MaskFeat; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskFeatConfig {
    /// The masks. Default: blocks of at least 15 patches up to 78 of 14x14.
    pub masker: BlockwiseMaskerConfig,
    /// Bins of a histogram. Default 9.
    pub bins: usize,
    /// Side in pixels of a histogram cell; it must divide the patch side. Default 8.
    pub cell: usize,
    /// Side in pixels of the Gaussian window that weights the pixels, 0 for none; it must divide the image sides.
    /// Default 16.
    pub window: usize,
    /// Initialisation of the weights. Default: as released, see [`MethodConfig::init`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.5 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder: a ViT with trained positions and a mask token.
    pub encoder: VitConfig,
}

impl Default for MaskFeatConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl MaskFeatConfig {
    /// MaskFeat's variant of a ViT, and the released masks and histograms.
    fn with_encoder(size: VitConfig) -> Self {
        Self {
            masker: BlockwiseMaskerConfig::maskfeat(),
            bins: 9,
            cell: 8,
            window: 16,
            init: None,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig {
                pos_embed: PosEmbedKind::Learned,
                mask_token: true,
                ..size
            },
        }
    }

    pub(crate) fn hog(&self) -> HogTargetConfig {
        HogTargetConfig {
            norm: self.norm.clone(),
            bins: self.bins,
            cell: self.cell,
            window: self.window,
            ..HogTargetConfig::maskfeat()
        }
    }

    fn check(&self) -> Result<()> {
        let encoder = &self.encoder;
        encoder.validate()?;
        self.norm.check(encoder.in_channels)?;
        if !encoder.mask_token {
            let why = "hidden patches are replaced by a mask token";
            return Err(bad("encoder.mask_token", false, why, "set it to true"));
        }
        if self.cell == 0 || !encoder.patch_size.is_multiple_of(self.cell) {
            let why = format!(
                "patches of {} pixels must consist of whole cells",
                encoder.patch_size
            );
            let fix = "choose a cell that divides encoder.patch_size";
            return Err(bad("cell", self.cell, why, fix));
        }
        let (height, width) = encoder.image_size.into();
        let tiles = |side: usize| side.is_multiple_of(self.window);
        if self.window > 0 && !(tiles(height) && tiles(width)) {
            let why = format!("it must divide both sides of the image, {height} and {width}");
            let fix = "choose such a window, or 0 for none";
            return Err(bad("window", self.window, why, fix));
        }
        Ok(())
    }
}

fn bad(
    field: &'static str,
    value: impl ToString,
    why: impl Into<String>,
    fix: &'static str,
) -> Error {
    Error::config("maskfeat", field, value.to_string(), why.into(), fix)
}

/// Matrices, convolution, tokens and positions N(0, 0.02), truncated at 2 (100 deviations: practically never). Biases
/// are 0, except that of the patch embedding, which has PyTorch's default for a convolution.
struct MaskFeatInit {
    patch_values: usize,
}

impl InitScheme for MaskFeatInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match shape {
            _ if name == "patch_embed.proj.bias" => Draw::torch(self.patch_values),
            [] | [_] => Draw::Const(if name.ends_with("weight") { 1. } else { 0. }),
            _ => Draw::TruncNormal { std: 0.02, cut: 2. },
        }
    }
}

impl MethodConfig for MaskFeatConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        let patch_values = self.encoder.patch_values();
        match self.init {
            Some(init) => init.build(patch_values),
            None => Box::new(MaskFeatInit { patch_values }),
        }
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.check()?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let hog = self.hog();
        let target = hog.build()?;
        let values = hog.values(self.encoder.patch_size, self.encoder.in_channels);
        let decoder = LinearDecoder::new(&params, self.encoder.embed_dim, values)?;
        let crop = RandomResizedCrop {
            size: <(usize, usize)>::from(size).into(),
            scale: [0.5, 1.],
            ..Default::default()
        };
        let views = self.views.clone();
        let views = views.unwrap_or_else(|| ViewPlan::crop_and_flip(crop));
        let masker = self.masker.build()?;
        Composite::builder("maskfeat", student, encoder, masker, MaskMode::Replace)
            .input(size, self.norm.clone(), views)
            .target("hog", target)
            .branch(
                ("hog", "hog"),
                decoder,
                RegressionConfig::default().build()?,
                Schedule::constant(1.),
            )
            .build()
    }
}

/// Its golden cases.
const GOLDEN: Golden<MaskFeatConfig> = Golden {
    settings: &[
        VIT,
        QKV_BIAS,
        Setting::Informs(&["mask_ratio"]),
        Setting::Renamed("hog.nbins", "bins"),
        Setting::Renamed("hog.pool", "cell"),
        Setting::Renamed("hog.gaussian_window", "window"),
    ],
    check: |made| {
        let (config, grid) = (&made.config, made.config.encoder.grid()?);
        if config.window > 0 {
            let deviation = (config.window / 2) as f64;
            made.case.fixed("hog.gaussian_std", deviation)?;
        }
        made.case.fixed("hog.grid", grid.rows)?;
        made.case.fixed("hog.grid", grid.cols)
    },
    outputs: &[
        ("hog", Output::Trace("target.hog")),
        ("latent", Output::Trace("latent")),
        ("pred", Output::Trace("pred.hog")),
    ],
    ..Golden::new("mmengine", |config| config.encoder.grid())
};

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Masked Feature Prediction for Self-Supervised Visual Pre-Training",
    paper: "Wei et al., CVPR 2022, arXiv 2112.09133",
    reference: "open-mmlab/mmpretrain @ ee7f2e8",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "40 % of the patches, in blocks; a mask token replaces them",
        predicted: "HOG of the hidden patches",
        by: "one linear layer",
        loss: "mean squared error on hidden patches",
        choose: "A target without teacher that ignores local contrast; good with little tuning.",
    },
    status: "exact: forward, loss, gradients",
    recipes: recipes!("maskfeat_32px", "maskfeat_base"),
    parity: |case, device| GOLDEN.setup(case, device),
    ..Entry::new::<MaskFeatConfig>("maskfeat")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tiny() -> MaskFeatConfig {
        MaskFeatConfig {
            window: 8,
            ..MaskFeatConfig::with_encoder(VitConfig {
                image_size: 32.into(),
                patch_size: 8,
                embed_dim: 16,
                depth: 1,
                num_heads: 2,
                ..VitConfig::default()
            })
        }
    }

    #[test]
    fn base_is_as_published() {
        let base = MaskFeatConfig::default();
        assert_eq!(MaskFeatConfig::arch("vit_base").unwrap(), base);
        assert_eq!(base.hog(), HogTargetConfig::maskfeat());
        let store = base.store(&Device::Cpu, 0);
        base.build(&store).unwrap();
        let head = store.var("decoder_pred.weight").unwrap();
        assert_eq!(head.dims(), [108, 768]);
        // A ViT-B/16 without classifier has 85 798 656 values, plus mask token and head.
        assert_eq!(store.trainable_values(), 85_798_656 + 768 + 108 * 768 + 108);
    }

    #[test]
    fn weights_start_normal_and_biases_zero_except_the_convolutions() {
        let init = tiny().init();
        let normal = Draw::TruncNormal { std: 0.02, cut: 2. };
        for (name, shape, draw) in [
            ("patch_embed.proj.weight", &[16, 3, 8, 8][..], normal),
            ("patch_embed.proj.bias", &[16], Draw::torch(192)),
            ("mask_token", &[1, 1, 16], normal),
            ("pos_embed", &[1, 17, 16], normal),
            ("decoder_pred.bias", &[27], Draw::Const(0.)),
            ("norm.weight", &[16], Draw::Const(1.)),
        ] {
            assert_eq!(init.draw(name, shape), draw, "{name}");
        }
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut MaskFeatConfig));
        let wrong: [Wrong; 6] = [
            ("`cell` is 3", |c| c.cell = 3),
            ("`cell` is 0", |c| c.cell = 0),
            ("`window` is 12", |c| c.window = 12),
            ("`bins` is 0", |c| c.bins = 0),
            ("`encoder.mask_token` is false", |c| {
                c.encoder.mask_token = false
            }),
            ("multiples of the patch size 5", |c| {
                c.encoder.patch_size = 5
            }),
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
