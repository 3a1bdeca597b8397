//! DMJD: Disjoint Masking with Joint Distillation for Efficient Masked Image Modeling (Ma et al., IEEE
//! Transactions on Multimedia 2023, arXiv 2301.00230).
//!
//! Each image has two masks, which together hide nearly all of it. For each mask, ConvMAE's encoder sees the visible
//! patches; a decoder predicts whitened histograms of oriented gradients of the hidden patches, and a small network
//! those of the visible ones. Reference: mx-mark/DMJD @ 881b21d.

mod golden;

use mim_core::augment::{RandomResizedCrop, ViewPlan};
use mim_core::decoders::{
    DecoderShape, MaeDecoder, MaeDecoderConfig, VisibleMlp, VisibleMlpConfig,
};
use mim_core::encoders::{ConvMae, ConvMaeConfig as HybridConfig, ConvMaeInit};
use mim_core::objectives::{Region, RegressionConfig, RegressionKind};
use mim_core::params::{InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, LossTerms, Mask, Norm, Objective, Prediction, Result, StepContext, Target};
use mim_masking::DisjointMaskerConfig;
use mim_targets::{HogNorm, HogTargetConfig};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Which targets are compared with the predictions for visible patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisibleOrder {
    /// Each prediction with the target of its own patch.
    #[default]
    Aligned,
    /// Parity: the release compares predictions in the mask's order with targets in image order.
    Released,
}

/// Settings of DMJD; `Default` is base as released, with ConvMAE's initialisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DmjdConfig {
    /// The masks. Default: two per image, each hiding 0.6 of all 2x2 patches; together they hide all.
    pub masker: DisjointMaskerConfig,
    /// Bins of a histogram. Default 9.
    pub bins: usize,
    /// Side in pixels of a histogram cell; it must divide the patch side. Default 8.
    pub cell: usize,
    /// Added to the variance when a histogram is whitened. Default 1e-5.
    pub whiten_eps: f64,
    /// Loss of the predictions for hidden patches. Default `mse`.
    pub masked_loss: RegressionKind,
    /// Loss of the predictions for visible patches. Default `smooth_l1` with beta 2.
    pub visible_loss: RegressionKind,
    /// Which targets belong to visible patches. Default `aligned`.
    pub visible_order: VisibleOrder,
    /// Weight of the loss of visible patches. Default 1.
    pub theta: f64,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.5 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder: ConvMAE's, with MLPs of 8, 8 and 4 times the width.
    pub encoder: HybridConfig,
    /// The decoder of hidden patches, with MLPs of 8 times the width.
    pub decoder: MaeDecoderConfig,
    /// The network that predicts visible patches.
    pub visible: VisibleMlpConfig,
}

impl Default for DmjdConfig {
    fn default() -> Self {
        Self::with_encoder(HybridConfig::default())
    }
}

impl DmjdConfig {
    /// DMJD's MLPs, masks and losses with an encoder of this size.
    fn with_encoder(size: HybridConfig) -> Self {
        let mlp_ratios = [8., 8., 4.];
        Self {
            masker: DisjointMaskerConfig::default(),
            bins: 9,
            cell: 8,
            whiten_eps: 1e-5,
            masked_loss: RegressionKind::Mse,
            visible_loss: RegressionKind::SmoothL1 { beta: 2. },
            visible_order: VisibleOrder::Aligned,
            theta: 1.,
            norm: Norm::imagenet(),
            views: None,
            encoder: HybridConfig { mlp_ratios, ..size },
            decoder: MaeDecoderConfig {
                mlp_ratio: mlp_ratios[0],
                ..MaeDecoderConfig::default()
            },
            visible: VisibleMlpConfig::default(),
        }
    }

    pub(crate) fn hog(&self) -> HogTargetConfig {
        let eps = self.whiten_eps;
        HogTargetConfig {
            bins: self.bins,
            cell: self.cell,
            cell_norm: HogNorm::LayerNorm { eps },
            ..HogTargetConfig::dmjd()
        }
    }

    /// How many images one image counts as for the learning rate.
    ///
    /// Parity: the README counts two, the code the share hidden in any view over that hidden in each.
    fn batch_factor(&self) -> f64 {
        match self.masker {
            DisjointMaskerConfig {
                mask_ratio,
                pred_ratio,
                views,
                ..
            } if views > 1 && mask_ratio > 0. => pred_ratio / mask_ratio,
            _ => 1.,
        }
    }

    fn check(&self) -> Result<()> {
        self.encoder.validate()?;
        self.norm.check(self.encoder.in_channels)?;
        let stride = self.encoder.stride();
        if self.cell == 0 || !stride.is_multiple_of(self.cell) {
            let why = format!("patches of {stride} pixels must consist of whole cells");
            let fix = "choose a cell that divides the product of encoder.patch_sizes";
            return Err(Error::config("dmjd", "cell", self.cell, why, fix));
        }
        if !self.theta.is_finite() || self.theta < 0. {
            let why = "a weight must be finite and not negative";
            return Err(Error::config("dmjd", "theta", self.theta, why, "use 1"));
        }
        Ok(())
    }

    /// The loss of one branch.
    fn objective(&self, region: Region) -> Result<Box<dyn Objective>> {
        let kind = match region {
            Region::Visible => self.visible_loss,
            _ => self.masked_loss,
        };
        let loss = RegressionConfig {
            kind,
            region,
            ..RegressionConfig::default()
        }
        .build()?;
        Ok(match (region, self.visible_order) {
            (Region::Visible, VisibleOrder::Released) => Box::new(ImageOrder(loss)),
            _ => Box::new(loss),
        })
    }
}

/// Compares predictions in the mask's order with targets in image order.
struct ImageOrder<O>(O);

impl<O: Objective> Objective for ImageOrder<O> {
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<LossTerms> {
        let sorted = Mask::from_bits(mask.grid(), &mask.to_bits())?;
        self.0.loss(prediction, target, &sorted, step)
    }
}

impl MethodConfig for DmjdConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(HybridConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        Box::new(ConvMaeInit(self.encoder.clone()))
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.check()?;
        let target = self.hog().build()?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = ConvMae::new(&params, &self.encoder)?;
        let grid = self.encoder.grid()?;
        let masker = self.masker.build()?;
        masker.units(grid)?;
        let width = self.encoder.dim();
        let values = self
            .hog()
            .values(self.encoder.stride(), self.encoder.in_channels);
        let shape = DecoderShape::new(grid, width, values);
        let masked = MaeDecoder::with_prefix(&params, &self.decoder, shape, 0)?;
        let visible = VisibleMlp::new(&params, &self.visible, width, values)?;
        let crop = RandomResizedCrop {
            size: <(usize, usize)>::from(size).into(),
            scale: [0.5, 1.],
            ..Default::default()
        };
        let views = self.views.clone();
        let views = views.unwrap_or_else(|| ViewPlan::crop_and_flip(crop));
        Composite::builder("dmjd", student, encoder, masker, MaskMode::Drop)
            .input(size, self.norm.clone(), views)
            .batch_factor(self.batch_factor())
            .target("hog", target)
            .branch(
                ("masked", "hog"),
                masked,
                self.objective(Region::Masked)?,
                Schedule::constant(1.),
            )
            .branch(
                ("visible", "hog"),
                visible,
                self.objective(Region::Visible)?,
                Schedule::constant(self.theta),
            )
            .build()
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Disjoint Masking with Joint Distillation for Efficient Masked Image Modeling",
    paper: "Ma et al., TMM 2023, arXiv 2301.00230",
    reference: "mx-mark/DMJD @ 881b21d",
    archs: crate::registry::HYBRIDS,
    about: crate::registry::About {
        hidden: "60 % of the image by each of two masks, in cells of 2x2 patches; together they hide all of it",
        predicted: "HOG of hidden and of visible patches",
        by: "a light head for visible patches, MAE's decoder for hidden ones",
        loss: "mean squared error for hidden patches, smooth L1 for visible ones",
        choose: "More signal for each image: fewer epochs for the same accuracy.",
    },
    status: "exact in both orders of visible targets: forward, losses, gradients, step",
    recipes: recipes!("dmjd_32px", "dmjd_base", "dmjd_large"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<DmjdConfig>("dmjd")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::{Batch, Method, PatchGrid, View};

    fn tiny() -> DmjdConfig {
        DmjdConfig {
            decoder: MaeDecoderConfig {
                embed_dim: 8,
                depth: 1,
                num_heads: 2,
                ..MaeDecoderConfig::default()
            },
            visible: VisibleMlpConfig {
                dim: 8,
                ..VisibleMlpConfig::default()
            },
            ..DmjdConfig::with_encoder(HybridConfig {
                image_size: 32.into(),
                patch_sizes: [2, 2, 2],
                embed_dims: [4, 6, 8],
                depths: [1, 1, 1],
                num_heads: 2,
                ..HybridConfig::default()
            })
        }
    }

    fn losses(config: &DmjdConfig, mask: Option<Mask>) -> Vec<f32> {
        let mut method = config.build(&config.store(&Device::Cpu, 1)).unwrap();
        if let Some(mask) = mask {
            method.override_mask(mask).unwrap();
        }
        let bytes: Vec<u8> = (0..2 * 3 * 32 * 32u32)
            .map(|i| (i * i % 251) as u8)
            .collect();
        let images = Tensor::from_vec(bytes, (2, 3, 32, 32), &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(images, vec![]).unwrap());
        let terms = method.forward(&batch, &StepContext::new(0)).unwrap();
        let values = terms.terms().iter();
        values
            .map(|(_, value, _)| value.to_scalar().unwrap())
            .collect()
    }

    #[test]
    fn base_and_large_have_the_published_sizes() {
        let base = DmjdConfig::default();
        assert_eq!(DmjdConfig::arch("convmae_base").unwrap(), base);
        let store = base.store(&Device::Cpu, 0);
        let method = base.build(&store).unwrap();
        let values: usize = store.vars().iter().map(|(_, var)| var.elem_count()).sum();
        assert_eq!(values, 135_885_912);
        assert!((method.batch_factor() - 1. / 0.6).abs() < 1e-12);
        let large = DmjdConfig::arch("convmae_large").unwrap();
        assert_eq!(large.encoder.embed_dims, [384, 768, 1024]);
        assert_eq!(large.encoder.mlp_ratios, [8., 8., 4.]);
    }

    #[test]
    fn the_order_of_visible_targets_matters_only_for_shuffled_masks() {
        let (aligned, grid) = (tiny(), PatchGrid::new(4, 4));
        let released = DmjdConfig {
            visible_order: VisibleOrder::Released,
            ..tiny()
        };
        let bits: Vec<u8> = (0..64).map(|i| u8::from(i % 4 < 2)).collect();
        let sorted = Mask::from_bits(grid, &bits).unwrap();
        assert_eq!(
            losses(&aligned, Some(sorted.clone())),
            losses(&released, Some(sorted.clone()))
        );
        let order = (0..4).flat_map(|row| {
            let backwards = sorted.visible(row).iter().rev().copied();
            backwards.chain(sorted.hidden(row).to_vec())
        });
        let shuffled = Mask::new(grid, order.collect(), vec![8; 4]).unwrap();
        let [one, other] = [&aligned, &released].map(|c| losses(c, Some(shuffled.clone())));
        assert!((one[0] - other[0]).abs() < 1e-6, "hidden patches");
        assert!((one[1] - other[1]).abs() > 1e-4, "visible patches");
    }

    #[test]
    fn training_works_with_one_or_more_views() {
        for views in [1, 2, 3] {
            let mut config = tiny();
            config.masker.views = views;
            let losses = losses(&config, None);
            assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.));
        }
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut DmjdConfig));
        let wrong: [Wrong; 7] = [
            ("`cell` is 3", |c| c.cell = 3),
            ("`bins` is 0", |c| c.bins = 0),
            ("`cell_norm.eps` is 0", |c| c.whiten_eps = 0.),
            ("`theta` is -1", |c| c.theta = -1.),
            ("`pred_ratio` is 0.5", |c| c.masker.pred_ratio = 0.5),
            ("`beta` is 0", |c| {
                c.visible_loss = RegressionKind::SmoothL1 { beta: 0. }
            }),
            ("do not tile", |c| c.encoder.image_size = 40.into()),
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
