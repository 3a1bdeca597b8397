//! Published weights that fit mim's encoders, with their source and licence.
//!
//! Wherever weights are expected, `zoo:NAME` can be used. Weights outside the Hugging Face Hub must be downloaded by
//! hand from the source in the table; then use `zoo:NAME=PATH`.

mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use mim_core::decoders::MaeDecoderConfig;
use mim_core::encoders::{
    ConvMaeConfig, EncoderConfig, RelPosBiasKind, RopeVitConfig, SwinConfig, VitConfig,
};
use mim_core::nn::{PosEmbedKind, QkvBias};
use mim_core::{Error, Norm, Result, settings};
use mim_methods::{CaeConfig, EvaConfig, MethodConfig};

pub use table::ZOO;

/// Published weights.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// A short name.
    pub name: &'static str,
    /// The method that trained them.
    pub method: &'static str,
    /// The encoder's size.
    pub arch: &'static str,
    /// Their source.
    pub home: Home,
    /// The naming scheme of their tensors ([`mim_core::weights::Source`]).
    pub source: &'static str,
    /// The licence, as stated by their source.
    pub licence: &'static str,
    /// How images were normalised.
    pub images: Images,
    /// Whether the target pixels were normalised per patch; `None` if the targets were not pixels.
    pub norm_pix_loss: Option<bool>,
    /// Published top-1 accuracy on ImageNet-1K and its source; empty if none is known for this file.
    pub numbers: &'static str,
}

/// The source of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// A repository on the Hugging Face Hub.
    Hub(&'static str),
    /// A file, or a page that links to it.
    Page(&'static str),
}

/// How images are normalised after division by 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Images {
    /// By the mean and deviation of ImageNet.
    Imagenet,
    /// The same, with the channels in the order blue, green, red.
    ReversedImagenet,
    /// Scaled to [-1, 1].
    Half,
    /// By the mean and deviation of CLIP's images.
    Clip,
    /// Not normalised, such as points.
    Unit,
}

impl Images {
    /// The norm with these values.
    pub fn norm(self) -> Norm {
        match self {
            Self::Imagenet => Norm::imagenet(),
            Self::ReversedImagenet => Norm {
                reverse_channels: true,
                ..Norm::imagenet()
            },
            Self::Half => Norm::inception(),
            Self::Clip => Norm::clip(),
            Self::Unit => Norm::uniform(0., 1., 3),
        }
    }
}

/// Prefix of the names of published weights.
const SCHEME: &str = "zoo:";

/// The entry called `name`.
///
/// # Errors
///
/// [`Error::InvalidConfig`] listing the known names.
pub fn named(name: &str) -> Result<&'static Published> {
    let name = name.strip_prefix(SCHEME).unwrap_or(name);
    ZOO.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let known = ZOO.iter().map(|entry| entry.name);
        let fix = format!("{} (mim zoo says more)", settings::choices(name, known));
        Error::config("zoo", "name", name, "unknown weights", fix)
    })
}

/// The weights that `zoo:NAME` or `zoo:NAME=PATH` refers to, and their path; `None` for any other `path`.
///
/// # Errors
///
/// [`Error::InvalidConfig`] listing the known names, or giving the source of weights outside the Hub.
pub fn find(path: &Path) -> Result<Option<(&'static Published, PathBuf)>> {
    let Some(text) = path.to_str().and_then(|path| path.strip_prefix(SCHEME)) else {
        return Ok(None);
    };
    let (name, given) = match text.split_once('=') {
        Some((name, path)) => (name, Some(PathBuf::from(path))),
        None => (text, None),
    };
    let entry = named(name)?;
    let path = match (given, entry.home) {
        (Some(path), _) => path,
        (None, Home::Hub(repository)) => PathBuf::from(format!("hf:{repository}")),
        (None, Home::Page(address)) => {
            let fix = format!("download them and write {SCHEME}{name}=PATH");
            return Err(Error::config(
                "zoo",
                "name",
                name,
                format!("these weights are not on the Hugging Face Hub but at {address}"),
                fix,
            ));
        }
    };
    Ok(Some((entry, path)))
}

impl Published {
    /// The encoder that the weights fit.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for weights of a tokenizer or a point encoder.
    pub fn encoder(&self) -> Result<EncoderConfig> {
        let no_encoder = |why: &'static str, fix: &'static str| {
            let what = format!("an encoder of images in {}", self.path());
            Err(Error::unsupported(what, why, fix))
        };
        Ok(match self.method {
            "vqkd" => {
                let fix = "let beitv2 predict its tokens: --set target.checkpoint=PATH --set target.source=vqkd \
                           --set target.network.type=vqkd";
                return no_encoder("these weights belong to a tokenizer", fix);
            }
            "i2pmae" => {
                let fix = "start from them: mim pretrain --method i2pmae --init";
                return no_encoder("these weights belong to an encoder of point clouds", fix);
            }
            "eva" => EvaConfig::arch(self.arch)?.encoder.into(),
            "cae" => CaeConfig::arch(self.arch)?.encoder.into(),
            "clip" => VitConfig::clip(self.arch)?.into(),
            "dmjd" => ConvMaeConfig {
                mlp_ratios: [8., 8., 4.],
                ..ConvMaeConfig::arch(self.arch)?
            }
            .into(),
            "capi" => RopeVitConfig::default().into(),
            _ if self.arch.starts_with("swin") => SwinConfig::arch(self.arch)?.into(),
            _ => self.vit()?.into(),
        })
    }

    fn vit(&self) -> Result<VitConfig> {
        let vit = VitConfig::arch(self.arch)?;
        // As in transformers' config.json; the authors' code has 1e-6.
        let norm_eps = match self.source {
            "hf_vit_mae" | "hf_beit" => 1e-12,
            _ => vit.norm_eps,
        };
        let vit = VitConfig { norm_eps, ..vit };
        Ok(match self.method {
            "dino" | "ibot" => VitConfig {
                pos_embed: PosEmbedKind::Learned,
                ..vit
            },
            "semmae" => VitConfig {
                patch_size: 8,
                ..vit
            },
            "dinov2" => VitConfig {
                image_size: 518.into(),
                any_size: true,
                patch_size: 14,
                pos_embed: PosEmbedKind::Learned,
                layer_scale_init: Some(1.),
                mask_token: true,
                ..vit
            },
            "beit" | "beitv2" | "mcbeit" | "data2vec" | "simmim" => VitConfig {
                qkv_bias: QkvBias::QV,
                layer_scale_init: Some(0.1),
                pos_embed: PosEmbedKind::None,
                rel_pos_bias: RelPosBiasKind::Shared,
                mask_token: true,
                ..vit
            },
            "bootmae" => VitConfig {
                qkv_bias: QkvBias::QV,
                pos_embed: PosEmbedKind::SincosRowFirst,
                ..vit
            },
            "cmae" => VitConfig {
                pos_embed: PosEmbedKind::SincosRowFirst,
                ..vit
            },
            "ijepa" | "crossmae" | "pixio" | "mimrefiner" => near_mae(self.method, vit),
            // A projector follows its blocks instead of a norm.
            "sim" => VitConfig {
                pos_embed: PosEmbedKind::SincosRowFirst,
                final_norm: false,
                ..vit
            },
            // Six heads in pre-training and twelve afterwards, with the same weights.
            "fastmim" => VitConfig {
                image_size: 128.into(),
                num_heads: 6,
                ..vit
            },
            _ => vit,
        })
    }

    /// Side of the images in pixels.
    pub fn image_size(&self) -> usize {
        match (self.method, self.arch) {
            ("fastmim", _) => 128,
            ("pixio", _) => 256,
            (_, arch) if arch.starts_with("swin") => 192,
            _ => 224,
        }
    }

    /// The decoder in the same file, if it is MAE's.
    pub fn decoder(&self) -> Option<MaeDecoderConfig> {
        (self.source == "hf_vit_mae").then(|| MaeDecoderConfig {
            norm_eps: 1e-12,
            ..MaeDecoderConfig::default()
        })
    }

    /// The name of these weights on the command line.
    pub fn path(&self) -> String {
        match self.home {
            Home::Hub(_) => format!("{SCHEME}{}", self.name),
            Home::Page(_) => format!("{SCHEME}{}=PATH", self.name),
        }
    }
}

/// MAE's encoder with other class tokens, positions or final layers.
fn near_mae(method: &str, vit: VitConfig) -> VitConfig {
    match method {
        "ijepa" => VitConfig {
            num_class_tokens: 0,
            ..vit
        },
        "crossmae" => VitConfig {
            final_norm: false,
            ..vit
        },
        "pixio" => VitConfig {
            image_size: 256.into(),
            patch_size: 16,
            num_class_tokens: 8,
            pos_embed: PosEmbedKind::Learned,
            ..vit
        },
        "mimrefiner" => VitConfig {
            resize_positions: true,
            ..vit
        },
        _ => vit,
    }
}
