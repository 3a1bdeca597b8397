//! SimMIM: A Simple Framework for Masked Image Modeling (Xie et al., CVPR 2022, arXiv 2111.09886).
//!
//! Large square cells are replaced by a mask token; one linear layer predicts their raw pixels under
//! an L1 loss. Reference: microsoft/SimMIM @ d3e29bc.

mod golden;

use mim_core::augment::{Interpolation, RandomResizedCrop, ViewPlan};
use mim_core::decoders::LinearDecoder;
use mim_core::encoders::{EncoderConfig, RelPosBiasKind, SwinConfig, VitConfig};
use mim_core::nn::{PosEmbedKind, QkvBias};
use mim_core::objectives::RegressionConfig;
use mim_core::ops::PatchOrder;
use mim_core::params::{Draw, Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, PatchGrid, Result};
use mim_masking::{CellMasker, CellMaskerConfig};
use mim_targets::PixelTargetConfig;
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Settings of SimMIM; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimMimConfig {
    /// Fraction of cells hidden (rounded up to whole cells), in `[0, 1)`. Default 0.6.
    pub mask_ratio: f64,
    /// Side of a cell in pixels; a multiple of the encoder's `patch_size` and a divisor of the image's sides. Default
    /// 32.
    pub mask_patch_size: usize,
    /// Initialisation of the weights. Default: `beit` for ViT and `swin` for Swin, with PyTorch's convolution default
    /// for the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.67 to 1, bilinear) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default: ViT with shared relative bias, no position embedding, layer scale, biases for query and
    /// value, and a mask token; a `type` in the settings replaces all of this.
    pub encoder: EncoderConfig,
}

impl Default for SimMimConfig {
    fn default() -> Self {
        Self::with_encoder(vit(VitConfig::default()).into())
    }
}

/// SimMIM's variant of a ViT.
fn vit(size: VitConfig) -> VitConfig {
    VitConfig {
        qkv_bias: QkvBias::QV,
        layer_scale_init: Some(0.1),
        drop_path_rate: 0.1,
        pos_embed: PosEmbedKind::None,
        rel_pos_bias: RelPosBiasKind::Shared,
        mask_token: true,
        ..size
    }
}

impl SimMimConfig {
    fn with_encoder(encoder: EncoderConfig) -> Self {
        Self {
            mask_ratio: 0.6,
            mask_patch_size: 32,
            init: None,
            norm: Norm::imagenet(),
            views: None,
            encoder,
        }
    }

    /// Side in pixels of a cell of the mask's grid: the largest that divides both mask cells and output tokens.
    pub(crate) fn mask_stride(&self) -> usize {
        let (mut a, mut b) = (self.mask_patch_size, self.encoder.output_stride());
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    }

    /// The grid of the mask.
    pub(crate) fn mask_grid(&self) -> Result<PatchGrid> {
        PatchGrid::of_image(self.encoder.image_size().into(), self.mask_stride())
    }

    pub(crate) fn masker(&self) -> Result<CellMasker> {
        let patch = self.encoder.patch_size();
        if patch == 0 || !self.mask_patch_size.is_multiple_of(patch) {
            return Err(Error::config(
                "simmim",
                "mask_patch_size",
                self.mask_patch_size,
                format!("cells must consist of whole patches of {patch} pixels"),
                "make it a multiple of encoder.patch_size",
            ));
        }
        CellMaskerConfig {
            mask_ratio: self.mask_ratio,
            mask_patch_size: self.mask_patch_size,
            patch_size: self.mask_stride(),
            ..Default::default()
        }
        .build()
    }

    fn plan(&self) -> ViewPlan {
        let crop = || RandomResizedCrop {
            size: <(usize, usize)>::from(self.encoder.image_size()).into(),
            scale: [0.67, 1.],
            interpolation: Interpolation::Bilinear,
            ..Default::default()
        };
        self.views
            .clone()
            .unwrap_or_else(|| ViewPlan::crop_and_flip(crop()))
    }
}

/// The encoder's scheme, and for the head PyTorch's default, which the authors do not change.
struct WithHead {
    encoder: Box<dyn InitScheme>,
    inputs: usize,
}

impl InitScheme for WithHead {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match name.starts_with("decoder_pred.") {
            true => Draw::torch(self.inputs),
            false => self.encoder.draw(name, shape),
        }
    }
}

impl MethodConfig for SimMimConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        let swin = SwinConfig::archs().any(|known| known == arch);
        Ok(Self::with_encoder(match swin {
            true => SwinConfig::arch(arch)?.into(),
            false => vit(VitConfig::arch(arch)?).into(),
        }))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        let patch_values = self.encoder.patch_values();
        match (self.init, &self.encoder) {
            (Some(init), _) => init.build(patch_values),
            (None, encoder) => Box::new(WithHead {
                encoder: encoder.init(Init::Beit),
                inputs: encoder.dim(),
            }),
        }
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        let (encoder, stride) = (&self.encoder, self.encoder.output_stride());
        let channels = encoder.in_channels();
        if !encoder.can_replace() {
            return Err(Error::unsupported(
                "this encoder in SimMIM",
                "it has no mask token for hidden patches",
                "use vit or swin, or the method made for it (fastmim, convmae)",
            ));
        }
        self.norm.check(channels)?;
        let params = student.root();
        let built = encoder.build(&params)?;
        let masker = self.masker()?;
        masker.cells(self.mask_grid()?)?;
        let target = PixelTargetConfig {
            norm: self.norm.clone(),
            ..PixelTargetConfig::simmim()
        };
        let decoder = LinearDecoder::new(&params, encoder.dim(), stride * stride * channels)?
            .pixels(PatchOrder::ChannelsThenPixels, channels);
        let objective = RegressionConfig {
            channels,
            ..RegressionConfig::simmim()
        };
        Composite::builder("simmim", student, built, masker, MaskMode::Replace)
            .input(encoder.image_size(), self.norm.clone(), self.plan())
            .mask_stride(self.mask_stride())
            .target("pixels", target.build()?)
            .branch(
                ("pixel", "pixels"),
                decoder,
                objective.build()?,
                Schedule::constant(1.),
            )
            .build()
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "SimMIM: A Simple Framework for Masked Image Modeling",
    paper: "Xie et al., CVPR 2022, arXiv 2111.09886",
    reference: "microsoft/SimMIM @ d3e29bc",
    archs: &[
        "vit_tiny",
        "vit_small",
        "vit_base",
        "swin_tiny",
        "swin_small",
        "swin_base",
        "swin_large",
    ],
    about: crate::registry::About {
        hidden: "60 % of the image in cells of 32 pixels; a mask token replaces them",
        predicted: "raw pixels of the hidden patches",
        by: "one linear layer",
        loss: "L1 on hidden pixels",
        choose: "Swin and other encoders that cannot drop tokens; the simplest recipe there is.",
    },
    status: "exact with ViT and Swin: forward, loss, gradients, step",
    recipes: recipes!(
        "simmim_32px",
        "simmim_base",
        "simmim_swin_32px",
        "simmim_swin_base",
        "simmim_swin_base_100ep"
    ),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<SimMimConfig>("simmim")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::encoders::{ConvMaeConfig, PvtV2Config};
    use mim_core::{Batch, Method, StepContext, View};

    fn tiny(mask_patch_size: usize) -> SimMimConfig {
        let encoder = SwinConfig {
            image_size: 32.into(),
            patch_size: 2,
            embed_dim: 8,
            depths: vec![1, 1, 1],
            num_heads: vec![2, 2, 2],
            window_size: 4,
            ..SwinConfig::default()
        };
        SimMimConfig {
            mask_patch_size,
            ..SimMimConfig::with_encoder(encoder.into())
        }
    }

    fn build(config: &SimMimConfig) -> Composite {
        let student = ParamStore::new(&Device::Cpu, 3, config.init());
        config.build(&student).unwrap()
    }

    fn batch() -> Batch {
        let bytes: Vec<u8> = (0..2 * 3 * 32 * 32u32)
            .map(|i| (i * i % 251) as u8)
            .collect();
        let images = Tensor::from_vec(bytes, (2, 3, 32, 32), &Device::Cpu).unwrap();
        Batch::single(View::new(images, vec![]).unwrap())
    }

    #[test]
    fn the_mask_grid_fits_cells_and_tokens() {
        assert_eq!(SimMimConfig::default().mask_stride(), 16);
        let swin = SimMimConfig::arch("swin_base").unwrap();
        assert_eq!(
            (swin.mask_stride(), swin.mask_grid().unwrap().len()),
            (32, 36)
        );
        for (cell, stride) in [(2, 2), (4, 4), (8, 8), (16, 8), (12, 4)] {
            assert_eq!(tiny(cell).mask_stride(), stride, "cells of {cell} pixels");
        }
    }

    #[test]
    fn the_same_hidden_pixels_give_the_same_loss_on_every_mask_grid() {
        // Cells of 8 pixels are tokens of the output; the same cells as masks on finer grids.
        let step = StepContext::new(5);
        let loss = |cell: usize, mask: Option<&mim_core::Mask>| {
            let mut method = build(&tiny(cell));
            if let Some(mask) = mask {
                let finer = tiny(cell).mask_grid().unwrap();
                method.override_mask(mask.upsample(finer).unwrap()).unwrap();
            }
            let terms = method.forward(&batch(), &step).unwrap();
            terms.total().unwrap().to_scalar::<f32>().unwrap()
        };
        let bits: Vec<u8> = (0..32).map(|i| u8::from(i % 3 == 0)).collect();
        let mask = mim_core::Mask::from_bits(PatchGrid::new(4, 4), &bits).unwrap();
        let coarse = loss(8, Some(&mask));
        for cell in [4, 2] {
            assert!(
                (loss(cell, Some(&mask)) - coarse).abs() < 1e-5,
                "{cell} pixels"
            );
        }
        assert!(loss(2, None).is_finite());
    }

    #[test]
    fn pictures_show_hidden_cells_finer_than_the_output() {
        let drawn = build(&tiny(4))
            .reconstruct(&batch(), &StepContext::inference())
            .unwrap();
        assert_eq!(drawn.reconstruction.dims(), [2, 3, 32, 32]);
        let changed = (&drawn.masked - &drawn.original).unwrap().abs().unwrap();
        let changed: Vec<f32> = changed
            .max(1)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let cells = changed.iter().filter(|change| **change > 0.).count();
        // ceil(0.6 * 64) cells of 16 pixels in each of two images; a hidden pixel may happen to be grey.
        assert!((1200..=2 * 39 * 16).contains(&cells), "{cells}");
    }

    #[test]
    fn the_head_has_the_convolution_default_and_the_rest_the_encoders_scheme() {
        let uniform = Draw::Uniform {
            bound: 1. / 32f32.sqrt(),
        };
        let scheme = tiny(8).init();
        assert_eq!(scheme.draw("decoder_pred.bias", &[192]), uniform);
        assert_eq!(scheme.draw("decoder_pred.weight", &[192, 32]), uniform);
        let normal = Draw::TruncNormal { std: 0.02, cut: 2. };
        assert_eq!(
            scheme.draw("layers.0.downsample.reduction.weight", &[16, 32]),
            normal
        );
        let zero = SimMimConfig {
            init: Some(Init::Transformers),
            ..tiny(8)
        }
        .init();
        assert_eq!(zero.draw("decoder_pred.bias", &[192]), Draw::Const(0.));
    }

    #[test]
    fn encoders_without_a_mask_token_are_refused() {
        let others = [
            EncoderConfig::from(ConvMaeConfig::default()),
            PvtV2Config::default().into(),
        ];
        for encoder in others {
            let config = SimMimConfig::with_encoder(encoder);
            let error = config.build(&ParamStore::cpu(0)).unwrap_err().to_string();
            assert!(
                error.contains("no mask token") && error.contains("fastmim"),
                "{error}"
            );
        }
    }

    #[test]
    fn cells_that_do_not_fit_are_refused_at_once() {
        for (cell, part) in [
            (3, "whole patches of 2"),
            (0, "mask_patch_size"),
            (24, "do not tile"),
        ] {
            let student = ParamStore::cpu(0);
            let error = tiny(cell).build(&student).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
