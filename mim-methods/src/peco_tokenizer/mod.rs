//! The tokenizer of PeCo: Perceptual Codebook for BERT Pre-training of Vision Transformers (Dong et al., AAAI 2023,
//! arXiv 2111.12710), by the paper's text: no code was released.
//!
//! A convolutional network with a codebook reconstructs images. A frozen transformer compares the reconstruction with
//! the image as well, so that codes carry meaning.

mod golden;
mod method;

use mim_core::augment::ViewPlan;
use mim_core::encoders::{EncoderConfig, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::params::{ConvInit, InitScheme, ParamStore};
use mim_core::{Encoder, Error, ImageSize, Input, Norm, Result};
use mim_targets::peco::{PecoNetworkConfig, PecoTokenizer};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{FrozenConfig, MethodConfig};
pub use method::PecoTraining;

const NAME: &str = "peco_tokenizer";

/// How pixels are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelLoss {
    /// By the mean absolute difference.
    L1,
    /// By the mean squared difference.
    L2,
}

/// Settings of PeCo's tokenizer; `Default` is the paper's: 8192 codes for 14x14 cells of 16x16 pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PecoTokenizerConfig {
    /// Height and width of the images in pixels. Default 224.
    pub image_size: ImageSize,
    /// How pixels are compared. Default `l1`.
    pub pixel_loss: PixelLoss,
    /// Weight of the distance between vectors and their codes. Default 0.25.
    pub commitment_weight: f64,
    /// Weight of the perceptual loss; with 0 there is no frozen network. Default 1.
    pub perceptual_weight: f64,
    /// Indices of the frozen network's blocks, from 0, whose patch tokens are compared. Default 2, 5, 8, 11.
    pub layers: Vec<usize>,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The tokenizer.
    pub network: PecoNetworkConfig,
    /// The frozen network. Default a self-supervised ViT-B/16 with ImageNet's normalisation; its weights must be given.
    pub target: FrozenConfig,
}

impl Default for PecoTokenizerConfig {
    fn default() -> Self {
        let vit = VitConfig {
            pos_embed: PosEmbedKind::Learned,
            ..VitConfig::default()
        };
        Self {
            image_size: 224.into(),
            pixel_loss: PixelLoss::L1,
            commitment_weight: 0.25,
            perceptual_weight: 1.,
            layers: vec![2, 5, 8, 11],
            views: None,
            network: PecoNetworkConfig::default(),
            target: FrozenConfig {
                source: "timm".to_owned(),
                encoder: EncoderConfig::Vit(vit),
                norm: Some(Norm::imagenet()),
                ..FrozenConfig::default()
            },
        }
    }
}

impl PecoTokenizerConfig {
    fn check(&self) -> Result<()> {
        let weights = [
            ("commitment_weight", self.commitment_weight),
            ("perceptual_weight", self.perceptual_weight),
        ];
        for (field, value) in weights {
            if !value.is_finite() || value < 0. {
                let why = "a weight must be finite and not negative";
                return Err(Error::config(
                    NAME,
                    field,
                    value,
                    why,
                    "remove it to use the default",
                ));
            }
        }
        if self.layers.is_empty() && self.perceptual_weight > 0. {
            let why = "the perceptual loss needs at least one block";
            let fix = "give blocks of the frozen network, or set perceptual_weight = 0";
            return Err(Error::config(NAME, "layers", "[]", why, fix));
        }
        let (side, ImageSize { height, width }) = (self.network.stride(), self.image_size);
        if height % side != 0 || width % side != 0 || height * width == 0 {
            let (value, why) = (
                format!("{height}x{width}"),
                format!("a code covers {side}x{side} pixels"),
            );
            let fix = "make both sides multiples of it, or change network.levels";
            return Err(Error::config(NAME, "image_size", value, why, fix));
        }
        Ok(())
    }

    /// The method with a frozen network, or `None` for a tokenizer that is not trained or has no perceptual loss.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        critic: Option<Box<dyn Encoder>>,
    ) -> Result<PecoTraining> {
        self.network.validate()?;
        self.check()?;
        let tokenizer = PecoTokenizer::new(&student.root(), &self.network)?;
        let norm = self.network.norm();
        if let Some(critic) = &critic {
            // Fails now if the network does not accept this image size.
            critic.grid(self.image_size.into())?;
        }
        let plan = self.views.clone();
        let plan = plan.unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(self.image_size)));
        Ok(PecoTraining {
            student: student.clone(),
            views: plan.with_channels(self.network.in_channels),
            input: Input {
                size: self.image_size,
                norm: norm.clone(),
            },
            critic_norm: self.target.norm.clone().unwrap_or(norm),
            tokenizer,
            critic,
            config: self.clone(),
        })
    }
}

impl MethodConfig for PecoTokenizerConfig {
    type Method = PecoTraining;

    fn arch(arch: &str) -> Result<Self> {
        let why = "this method has only one size";
        Err(Error::config(
            NAME,
            "arch",
            arch,
            why,
            "set network.hidden_dim and .levels",
        ))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        Box::new(ConvInit)
    }

    fn build(&self, student: &ParamStore) -> Result<PecoTraining> {
        let wanted = self.perceptual_weight > 0. && student.trains();
        let critic = wanted.then(|| self.target.open(student.device()));
        self.compose(student, critic.transpose()?)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "PeCo's tokenizer: Perceptual Codebook for BERT Pre-training of Vision Transformers",
    paper: "Dong et al., AAAI 2023, arXiv 2111.12710",
    reference: "none: no code was released",
    about: crate::registry::About {
        hidden: "nothing",
        predicted: "pixels, from codes",
        by: "a convolutional decoder",
        loss: "L1, a perceptual loss through a frozen ViT, and commitment",
        choose: "Trains PeCo's tokenizer on your images.",
    },
    status: "by the paper's text; agrees with a second implementation: forward, losses, gradients, codebook",
    recipes: recipes!("peco_tokenizer_32px", "peco_tokenizer_base"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<PecoTokenizerConfig>("peco_tokenizer")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::optim::Gradients;
    use mim_core::{Batch, Method, StepContext, View};

    fn tiny(more: &str) -> PecoTokenizerConfig {
        let text = format!(
            "image_size = 16
             layers = [0]
             network = {{ levels = 2, hidden_dim = 4, codebook = {{ size = 4, dim = 3, kmeans = 0 }} }}
             {more}
             [target]
             checkpoint = \"random\"
             encoder = {{ type = \"vit\", image_size = 16, patch_size = 8, embed_dim = 12, depth = 1, num_heads = 2 }}"
        );
        let entry = crate::registry::method("peco_tokenizer").unwrap();
        entry
            .resolve(text.parse().unwrap())
            .unwrap()
            .try_into()
            .unwrap()
    }

    fn batch() -> Batch {
        let pixels = (0..2 * 3 * 16 * 16u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8);
        let pixels = Tensor::from_vec(pixels.collect(), (2, 3, 16, 16), &Device::Cpu).unwrap();
        Batch::single(View::new(pixels, vec![]).unwrap())
    }

    #[test]
    fn without_perceptual_loss_the_frozen_network_does_not_matter() {
        let gradient = |more: &str, checkpoint: &str| {
            let mut config = tiny(more);
            config.target.checkpoint = checkpoint.to_owned();
            let store = config.store(&Device::Cpu, 0);
            let method = config.build(&store).unwrap();
            let terms = method.forward(&batch(), &StepContext::new(0)).unwrap();
            let mut gradients = Gradients::new(store.trainable());
            gradients.backward(&terms.total().unwrap()).unwrap();
            gradients.norm().unwrap()
        };
        let plain = gradient("perceptual_weight = 0.0", "no/such/file");
        assert_eq!(plain, gradient("perceptual_weight = 0.0", "random"));
        assert!((plain - gradient("", "random")).abs() > 1e-6);
    }

    #[test]
    fn reconstructions_hide_no_pixels() {
        let config = tiny("");
        let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let picture = method
            .reconstruct(&batch(), &StepContext::inference())
            .unwrap();
        assert_eq!(picture.reconstruction.dims(), [2, 3, 16, 16]);
        let apart = (picture.original - picture.masked).unwrap().abs().unwrap();
        assert_eq!(apart.sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.);
    }

    #[test]
    fn invalid_settings_are_named() {
        let refused = |change: fn(&mut PecoTokenizerConfig), part: &str| {
            let mut config = tiny("");
            change(&mut config);
            let error = config.build(&config.store(&Device::Cpu, 0)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        };
        refused(|c| c.commitment_weight = -1., "`commitment_weight` is -1");
        refused(
            |c| c.perceptual_weight = f64::INFINITY,
            "`perceptual_weight` is inf",
        );
        refused(|c| c.image_size = 18.into(), "4x4 pixels");
        refused(|c| c.layers = vec![], "`layers` is []");
        refused(|c| c.target.checkpoint = String::new(), "target.checkpoint");
    }

    #[test]
    fn a_missing_block_is_named() {
        let config = PecoTokenizerConfig {
            layers: vec![3],
            ..tiny("")
        };
        let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let error = method.forward(&batch(), &StepContext::new(0)).unwrap_err();
        assert!(error.to_string().contains("`layers` is 3"), "{error}");
    }
}
