//! The part learning of SemMAE: Semantic-Guided Masking for Learning Masked Autoencoders (Li et al., NeurIPS 2022,
//! arXiv 2206.10207), by the paper's text: no code of this stage was released.
//!
//! Part tokens are learned on the features of a frozen ViT (iBOT in the paper): the class token becomes one token per
//! part, which attends to its patches. From these maps, a decoder after StyleGAN draws the image, with texture from the
//! class token. A loss penalises overlapping maps. `semmae` uses them for its masks (`parts.type=learned`,
//! `parts.checkpoint=RUN`).

mod learned;
mod method;

use mim_core::augment::ViewPlan;
use mim_core::decoders::{StyleDecoder, StyleDecoderConfig, StyleShape};
use mim_core::encoders::{EncoderConfig, VitConfig};
use mim_core::params::{ConvInit, InitScheme, ParamStore};
use mim_core::{Encoder, Error, ImageSize, Input, Norm, Result};
use mim_targets::PartTokens;
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{FrozenConfig, MethodConfig};
pub(crate) use learned::LearnedParts;
pub use method::SemMaeParts;

const NAME: &str = "semmae_parts";

/// Settings of SemMAE's part learning; `Default` is six parts on DINO's ViT-S/8, whose weights must be given.
///
/// DINO's ViT-S/8 has the patches of SemMAE's encoder. The paper uses iBOT, which was released only with larger
/// patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SemMaePartsConfig {
    /// Height and width of the images in pixels. Default 224.
    pub image_size: ImageSize,
    /// Number of parts. Default 6.
    pub num_parts: usize,
    /// Weight of the overlap of maps; the paper does not give it. Default 1.
    pub diversity_weight: f64,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The decoder.
    pub decoder: StyleDecoderConfig,
    /// The frozen network, a ViT with a class token.
    pub teacher: FrozenConfig,
}

impl Default for SemMaePartsConfig {
    fn default() -> Self {
        let vit = VitConfig {
            patch_size: 8,
            embed_dim: 384,
            depth: 12,
            num_heads: 6,
            ..VitConfig::default()
        };
        Self {
            image_size: 224.into(),
            num_parts: 6,
            diversity_weight: 1.,
            norm: Norm::imagenet(),
            views: None,
            decoder: StyleDecoderConfig::default(),
            teacher: FrozenConfig {
                source: "dino".to_owned(),
                encoder: EncoderConfig::Vit(vit),
                ..FrozenConfig::default()
            },
        }
    }
}

impl SemMaePartsConfig {
    fn check(&self) -> Result<()> {
        let weight = self.diversity_weight;
        if !weight.is_finite() || weight < 0. {
            let (field, why) = (
                "diversity_weight",
                "a weight must be finite and not negative",
            );
            return Err(Error::config(NAME, field, weight, why, "use 1"));
        }
        if self.teacher.view != 0 {
            let (field, why) = (
                "teacher.view",
                "the decoder reconstructs the view that the network sees",
            );
            return Err(Error::config(
                NAME,
                field,
                self.teacher.view,
                why,
                "remove it",
            ));
        }
        Ok(())
    }

    /// The normalisation of the frozen network's images.
    fn norm(&self) -> Norm {
        let own = self.teacher.norm.clone();
        own.unwrap_or_else(|| self.norm.clone())
    }

    /// Side in pixels of the network's patches.
    fn patch_size(&self, teacher: &dyn Encoder) -> Result<usize> {
        let ImageSize { height, width } = self.image_size;
        let grid = teacher.grid((height, width))?;
        let (rows, cols) = (height / grid.rows, width / grid.cols);
        if rows != cols {
            let why = format!("its patches are {rows}x{cols} pixels");
            let (value, fix) = (format!("{height}x{width}"), "use square patches");
            return Err(Error::config(NAME, "image_size", value, why, fix));
        }
        Ok(rows)
    }

    /// The method with this frozen network.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        teacher: Box<dyn Encoder>,
    ) -> Result<SemMaeParts> {
        self.check()?;
        let norm = self.norm();
        let (root, channels) = (student.root(), norm.mean.len());
        let shape = StyleShape {
            maps: self.num_parts,
            token_dim: teacher.dim(),
            cell: self.patch_size(&teacher)?,
            channels,
        };
        let plan = self.views.clone();
        let plan = plan.unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(self.image_size)));
        Ok(SemMaeParts {
            student: student.clone(),
            views: plan.with_channels(channels),
            input: Input {
                size: self.image_size,
                norm,
            },
            tokens: PartTokens::new(&root, teacher.dim(), self.num_parts)?,
            decoder: StyleDecoder::new(&root.pp("decoder"), &self.decoder, shape)?,
            teacher,
            diversity_weight: self.diversity_weight,
            note: self.teacher.note(),
        })
    }
}

impl MethodConfig for SemMaePartsConfig {
    type Method = SemMaeParts;

    fn arch(arch: &str) -> Result<Self> {
        let (why, fix) = (
            "this method has only one size",
            "set teacher.encoder and decoder.embed_dim",
        );
        Err(Error::config(NAME, "arch", arch, why, fix))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        Box::new(ConvInit)
    }

    fn build(&self, student: &ParamStore) -> Result<SemMaeParts> {
        self.compose(student, self.teacher.open(student.device())?)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "SemMAE's part learning: Semantic-Guided Masking for Learning Masked Autoencoders",
    paper: "Li et al., NeurIPS 2022, arXiv 2206.10207",
    reference: "none: no code of this stage was released",
    about: crate::registry::About {
        hidden: "nothing",
        predicted: "pixels, from maps of parts and the class token of a frozen network (DINO)",
        by: "a decoder after StyleGAN",
        loss: "mean squared error, and the overlap of the maps",
        choose: "Learns the parts that SemMAE hides, on your images.",
    },
    status: "by the paper's text",
    recipes: recipes!("semmae_parts_32px", "semmae_parts_base"),
    ..Entry::new::<SemMaePartsConfig>("semmae_parts")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::{Batch, Method, StepContext, View};

    fn tiny(more: &str) -> SemMaePartsConfig {
        let text = format!(
            "image_size = 32
             num_parts = 3
             decoder = {{ embed_dim = 16, style_dim = 8 }}
             {more}
             [teacher]
             checkpoint = \"random\"
             encoder = {{ type = \"vit\", image_size = 32, patch_size = 8, embed_dim = 12, depth = 1, num_heads = 3 }}"
        );
        let entry = crate::registry::method(NAME).unwrap();
        let settings = entry.resolve(text.parse().unwrap()).unwrap();
        settings.try_into().unwrap()
    }

    fn batch() -> Batch {
        let pixels = (0..2 * 3 * 32 * 32u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8);
        let pixels = Tensor::from_vec(pixels.collect(), (2, 3, 32, 32), &Device::Cpu).unwrap();
        Batch::single(View::new(pixels, vec![]).unwrap())
    }

    #[test]
    fn reconstructions_hide_no_pixels_and_the_loss_has_both_terms() {
        let config = tiny("");
        let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let terms = method.forward(&batch(), &StepContext::new(0)).unwrap();
        let total = terms.total().unwrap().to_scalar::<f32>().unwrap();
        assert!(total.is_finite() && total > 0.);
        let picture = method
            .reconstruct(&batch(), &StepContext::inference())
            .unwrap();
        assert_eq!(picture.reconstruction.dims(), [2, 3, 32, 32]);
    }

    #[test]
    fn invalid_settings_are_named() {
        let refused = |change: fn(&mut SemMaePartsConfig), part: &str| {
            let mut config = tiny("");
            change(&mut config);
            let error = config.build(&config.store(&Device::Cpu, 0)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        };
        refused(|c| c.diversity_weight = -1., "`diversity_weight` is -1");
        refused(|c| c.num_parts = 1, "`num_parts` is 1");
        refused(|c| c.teacher.view = 1, "`teacher.view` is 1");
        refused(|c| c.teacher.checkpoint = String::new(), "checkpoint");
        refused(|c| c.image_size = 36.into(), "36");
        let EncoderConfig::Vit(vit) = tiny("").teacher.encoder else {
            panic!("it is a ViT");
        };
        let mut config = tiny("");
        config.teacher.encoder = EncoderConfig::Vit(VitConfig {
            class_token: false,
            ..vit
        });
        let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let error = method.forward(&batch(), &StepContext::new(0)).unwrap_err();
        assert!(error.to_string().contains("class token"), "{error}");
    }
}
