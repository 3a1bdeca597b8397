//! SAIM: Exploring Stochastic Autoregressive Image Modeling for Visual Representation (Qi et al., AAAI 2023, arXiv
//! 2212.01610).
//!
//! Patches are predicted one after the other in an order drawn for each image. In the encoder each patch attends to
//! itself and to the patches before it. A second stream, which starts from positions alone, attends only to earlier
//! patches; it predicts the smoothed, normalised pixels of all patches in one pass. Reference: qiy20/SAIM @ 08d36c3.

use candle_core::{Device, Tensor};
use mim_core::augment::ViewPlan;
use mim_core::decoders::{QueryStream, QueryStreamConfig};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::causal_bias;
use mim_core::objectives::{Region, RegressionConfig, RegressionKind};
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Norm, Result};
use mim_masking::PermutationMasker;
use mim_targets::{Blur, PatchNorm, PixelTargetConfig};
use serde::{Deserialize, Serialize};

use crate::parity;
use crate::parity::golden::{Golden, Made, Masks, Output, Plain, Setting, VIT, same};
use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Settings of SAIM; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SaimConfig {
    /// Gaussian blur of the predicted images; a `kernel_size` of 1 disables it. Default 9 and 1.
    // Parity: the padding around the normalised image is zero, which changes the brightness at its border.
    pub blur: Blur,
    /// Whether each patch's pixels are normalised by their own mean and deviation. Default true.
    pub norm_pix_loss: bool,
    /// Loss of the predictions. Default `mse`.
    pub loss: RegressionKind,
    /// Initialisation of the weights. Default `saim`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Its last norm is used by the query stream.
    pub encoder: VitConfig,
    /// The query stream.
    pub query: QueryStreamConfig,
}

impl Default for SaimConfig {
    fn default() -> Self {
        Self {
            blur: Blur {
                kernel_size: 9,
                sigma: 1.,
            },
            norm_pix_loss: true,
            loss: RegressionKind::Mse,
            init: Init::Saim,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig::default(),
            query: QueryStreamConfig::default(),
        }
    }
}

impl SaimConfig {
    /// The pixel target.
    pub(crate) fn pixels(&self) -> PixelTargetConfig {
        PixelTargetConfig {
            norm: self.norm.clone(),
            blur: (self.blur.kernel_size != 1).then_some(self.blur),
            patch_norm: match self.norm_pix_loss {
                true => PatchNorm::default(),
                false => PatchNorm::None,
            },
            ..PixelTargetConfig::default()
        }
    }
}

impl MethodConfig for SaimConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self {
            encoder: VitConfig::arch(arch)?,
            ..Self::default()
        })
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.norm.check(self.encoder.in_channels)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let values = self.encoder.patch_values();
        let query = QueryStream::new(&params, &self.query, &self.encoder, values)?;
        let objective = RegressionConfig {
            kind: self.loss,
            region: Region::All,
            ..RegressionConfig::default()
        };
        let views = self
            .views
            .clone()
            .unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(size)));
        Composite::builder(
            "saim",
            student,
            encoder,
            PermutationMasker,
            MaskMode::Causal,
        )
        .input(size, self.norm.clone(), views)
        .target("pixels", self.pixels().build()?)
        .branch(
            ("pixel", "pixels"),
            query,
            objective.build()?,
            Schedule::constant(1.),
        )
        .build()
    }
}

/// Its golden cases.
const GOLDEN: Golden<SaimConfig> = Golden {
    settings: &[
        VIT,
        Setting::Same("", "", &["norm_pix_loss"]),
        Setting::Set("blur.kernel_size", Plain::Int(1)),
        Setting::Renamed("gaussian_kernel_size", "blur.kernel_size"),
        Setting::Renamed("gaussian_sigma", "blur.sigma"),
        Setting::Word("loss_type", "loss.type", &[("L2", "mse"), ("L1", "l1")]),
        Setting::Renamed("query_depth", "query.depth"),
        Setting::Renamed("share_weight", "query.share_weights"),
        Setting::Word(
            "prediction_head",
            "query.head",
            &[("MLP", "mlp"), ("LINEAR", "linear")],
        ),
    ],
    masks: Masks::Noise(|_, grid, noise| PermutationMasker.from_noise(grid, noise)),
    check: same_order,
    outputs: &[
        ("content_first", Output::Trace("block0")),
        (
            "content_last",
            Output::TraceOf(|config| format!("block{}", config.encoder.depth - 1)),
        ),
        ("query_first", Output::Trace("pixel.query0")),
        (
            "query_last",
            Output::TraceOf(|config| {
                let depth = config.query.depth.unwrap_or(config.encoder.depth);
                format!("pixel.query{}", depth - 1)
            }),
        ),
        ("pred", Output::Trace("pixel.pred")),
        ("blurred", Output::By(|made, _| blurred(made))),
        ("target", Output::Trace("target.pixels")),
    ],
    ..Golden::new("saim", |config| config.encoder.grid())
};

/// Checks the recorded order, and what it lets each token see.
fn same_order(made: &Made<SaimConfig>) -> parity::Result<()> {
    let (case, mask, device) = (&made.case, made.mask()?, &Device::Cpu);
    let seen =
        |itself| -> parity::Result<Tensor> { Ok(causal_bias(mask, 1, itself, device)?.exp()?) };
    same(case, "input.permutation", &mask.ids_order(device)?)?;
    same(case, "input.content_visible", &seen(true)?)?;
    same(case, "input.query_visible", &seen(false)?)
}

/// The smoothed images.
fn blurred(made: &Made<SaimConfig>) -> parity::Result<Tensor> {
    let images = made.case.on("input.images", &made.device)?;
    let plain = PixelTargetConfig {
        patch_norm: PatchNorm::None,
        ..made.config.pixels()
    };
    let (target, grid) = (plain.build()?, made.config.encoder.grid()?);
    let patches = target.target(&images, grid)?;
    Ok(target.unpatchify(&patches, grid, images.dim(1)?)?)
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Exploring Stochastic Autoregressive Image Modeling for Visual Representation",
    paper: "Qi et al., AAAI 2023, arXiv 2212.01610",
    reference: "qiy20/SAIM @ 08d36c3",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "nothing; each patch sees those before it in a random order",
        predicted: "the pixels of every patch",
        by: "a second stream of queries",
        loss: "mean squared error over all patches",
        choose: "An autoregressive alternative to masks: each patch is a target.",
    },
    status: "exact: masks, both streams, loss, gradients, step",
    recipes: recipes!("saim_32px", "saim_base"),
    parity: |case, device| GOLDEN.setup(case, device),
    ..Entry::new::<SaimConfig>("saim")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::Method;

    fn built(settings: &str) -> Result<Box<dyn Method>> {
        let entry = crate::registry::method("saim")?;
        let small = "encoder = { image_size = 32, patch_size = 8, embed_dim = 16, depth = 4, num_heads = 2 }";
        let settings = format!("{small}\n{settings}");
        entry.build(entry.resolve(settings.parse().unwrap())?, &Device::Cpu, 0)
    }

    #[test]
    fn the_query_stream_has_the_configured_number_of_blocks() {
        let blocks = |settings: &str| {
            let method = built(settings).unwrap();
            let names = method.stores()[0].1.names();
            let norms = names.iter().map(|(name, _)| name.as_str());
            norms
                .filter(|name| name.starts_with("query_blocks") && name.ends_with("norm1.bias"))
                .count()
        };
        assert_eq!(blocks(""), 4);
        assert_eq!(blocks("query = { depth = 2 }"), 2);
        assert_eq!(blocks("query = { share_weights = true }"), 0);
    }

    #[test]
    fn invalid_settings_are_refused() {
        for (settings, wanted) in [
            ("query = { depth = 3 }", "divisor of encoder.depth"),
            ("query = { depth = 0 }", "divisor of encoder.depth"),
            ("query = { head = \"mpl\" }", "mpl"),
            ("blur = { kernel_size = 4, sigma = 1.0 }", "odd"),
        ] {
            let error = match built(settings) {
                Ok(_) => panic!("{settings} is not refused"),
                Err(error) => error.to_string(),
            };
            assert!(error.contains(wanted), "{error}");
        }
        let entry = crate::registry::method("saim").unwrap();
        let plain = "encoder = { class_token = false }".parse().unwrap();
        assert!(
            entry
                .build(entry.resolve(plain).unwrap(), &Device::Cpu, 0)
                .is_err()
        );
    }

    #[test]
    fn a_kernel_of_one_pixel_does_not_smooth() {
        let config = SaimConfig {
            blur: Blur {
                kernel_size: 1,
                sigma: 1.,
            },
            ..SaimConfig::default()
        };
        assert_eq!(config.pixels().blur, None);
        assert_eq!(SaimConfig::default().pixels().blur.unwrap().kernel_size, 9);
    }
}
