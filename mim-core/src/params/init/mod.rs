//! Initialisation schemes. A scheme belongs to a paper, not to a layer: it maps names and shapes to draws.

mod beit;
mod bootmae;
mod cae;
mod capi;
mod cmae;
mod conv;
mod fastmim;
mod ibot;
mod ijepa;
mod mae;
mod pixio;
mod point;
mod pvt_v2;
mod saim;
mod swin;
mod transformers;

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

pub use beit::BeitInit;
pub use bootmae::BootMaeInit;
pub use cae::CaeInit;
pub use capi::CapiInit;
pub use cmae::CmaeInit;
pub use conv::ConvInit;
pub use fastmim::FastMimInit;
pub use ibot::IbotInit;
pub use ijepa::IJepaInit;
pub use mae::MaeInit;
pub use pixio::PixioInit;
pub use point::PointInit;
pub use pvt_v2::PvtV2Init;
pub use saim::SaimInit;
pub use swin::SwinInit;
pub use transformers::TransformersInit;

/// A distribution of initial values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Draw {
    /// A constant.
    Const(f32),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Normal with mean 0, redrawn outside `[-cut, cut]`.
    TruncNormal {
        /// Standard deviation before truncation.
        std: f32,
        /// Largest magnitude.
        cut: f32,
    },
    /// Uniform in `[-bound, bound)`.
    Uniform {
        /// Largest magnitude.
        bound: f32,
    },
}

impl Draw {
    /// Xavier (Glorot) uniform for a matrix of `rows` outputs and `cols` inputs.
    pub fn xavier(rows: usize, cols: usize) -> Self {
        Self::Uniform {
            bound: (6. / (rows + cols) as f32).sqrt(),
        }
    }

    /// PyTorch's default for weight and bias of a linear or convolutional layer with fan-in `inputs`.
    pub fn torch(inputs: usize) -> Self {
        Self::Uniform {
            bound: 1. / (inputs as f32).sqrt(),
        }
    }

    /// Draws `count` values.
    pub fn sample(&self, count: usize, rng: &mut dyn Rng) -> Vec<f32> {
        let normal = |rng: &mut dyn Rng| -> f32 { rng.sample(StandardNormal) };
        match *self {
            Self::Const(value) => vec![value; count],
            Self::Normal { std } => (0..count).map(|_| std * normal(rng)).collect(),
            Self::TruncNormal { std, cut } => (0..count)
                .map(|_| {
                    loop {
                        let value = std * normal(rng);
                        if value.abs() <= cut {
                            break value;
                        }
                    }
                })
                .collect(),
            Self::Uniform { bound } => (0..count)
                .map(|_| bound * (2. * rng.random::<f32>() - 1.))
                .collect(),
        }
    }
}

/// Maps (name, shape) to the distribution of a parameter's initial values.
pub trait InitScheme: Send + Sync {
    /// The distribution for the parameter `name`.
    fn draw(&self, name: &str, shape: &[usize]) -> Draw;
}

impl InitScheme for Box<dyn InitScheme> {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        (**self).draw(name, shape)
    }
}

/// Schemes that a config can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// [`MaeInit`].
    #[default]
    Mae,
    /// [`TransformersInit`].
    Transformers,
    /// [`BeitInit`].
    Beit,
    /// [`BeitInit::eva`].
    Eva,
    /// [`BootMaeInit`].
    #[serde(rename = "bootmae")]
    BootMae,
    /// [`CaeInit`].
    Cae,
    /// [`SwinInit`].
    Swin,
    /// [`IbotInit`].
    Ibot,
    /// [`PvtV2Init`].
    PvtV2,
    /// [`FastMimInit`].
    #[serde(rename = "fastmim")]
    FastMim,
    /// [`PixioInit`].
    Pixio,
    /// [`IJepaInit`].
    #[serde(rename = "ijepa")]
    IJepa,
    /// [`CapiInit`].
    Capi,
    /// [`SaimInit`].
    Saim,
}

impl Init {
    /// The scheme for a network with `patch_values` pixel values per patch.
    pub fn build(self, patch_values: usize) -> Box<dyn InitScheme> {
        match self {
            Self::Mae => Box::new(MaeInit { patch_values }),
            Self::Transformers => Box::new(TransformersInit),
            Self::Beit => Box::new(BeitInit::default()),
            Self::Eva => Box::new(BeitInit::eva()),
            Self::BootMae => Box::new(BootMaeInit { patch_values }),
            Self::Cae => Box::new(CaeInit),
            Self::Swin => Box::new(SwinInit { patch_values }),
            Self::Ibot => Box::new(IbotInit { patch_values }),
            Self::PvtV2 => Box::new(PvtV2Init),
            Self::FastMim => Box::new(FastMimInit { patch_values }),
            Self::Pixio => Box::new(PixioInit { patch_values }),
            Self::IJepa => Box::new(IJepaInit),
            Self::Capi => Box::new(CapiInit { patch_values }),
            Self::Saim => Box::new(SaimInit { patch_values }),
        }
    }
}

/// Tokens that are not patches: drawn as vectors, not as matrices.
fn is_token(name: &str) -> bool {
    name.ends_with("cls_token") || name.ends_with("mask_token") || name.ends_with("masked_embed")
}

/// 1-D parameters: norm weights are one, everything else is zero.
fn vector(name: &str) -> Draw {
    Draw::Const(if name.ends_with("weight") { 1. } else { 0. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    fn sample(draw: Draw) -> Vec<f32> {
        draw.sample(20_000, &mut stream(0, Purpose::Init, [0, 0]))
    }

    fn deviation(values: &[f32]) -> f32 {
        (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt()
    }

    #[test]
    fn draws_have_the_deviation_they_state() {
        assert!((deviation(&sample(Draw::Normal { std: 0.02 })) - 0.02).abs() < 4e-4);
        // A normal truncated at one deviation keeps 0.5396 of it.
        let cut = sample(Draw::TruncNormal {
            std: 0.02,
            cut: 0.02,
        });
        assert!((deviation(&cut) - 0.010_79).abs() < 2e-4);
        assert!(cut.iter().all(|v| v.abs() <= 0.02));
        let xavier = sample(Draw::xavier(3, 3));
        assert!((deviation(&xavier) - 1. / 3f32.sqrt()).abs() < 0.01);
        assert!(xavier.iter().all(|v| v.abs() <= 1.));
    }

    #[test]
    fn schemes_distinguish_parameters_by_name() {
        let mae = MaeInit { patch_values: 48 };
        assert_eq!(
            mae.draw("patch_embed.proj.bias", &[8]),
            Draw::Uniform {
                bound: 1. / 48f32.sqrt()
            }
        );
        assert_eq!(
            mae.draw("patch_embed.proj.weight", &[8, 3, 4, 4]),
            Draw::xavier(8, 48)
        );
        assert_eq!(mae.draw("norm.weight", &[8]), Draw::Const(1.));
        assert_eq!(mae.draw("blocks.0.attn.qkv.bias", &[24]), Draw::Const(0.));
        assert_eq!(
            mae.draw("decoder.mask_token", &[1, 1, 8]),
            Draw::Normal { std: 0.02 }
        );
        assert_eq!(
            TransformersInit.draw("cls_token", &[1, 1, 8]),
            Draw::Const(0.)
        );
        let swin = SwinInit { patch_values: 48 };
        let normal = Draw::TruncNormal { std: 0.02, cut: 2. };
        let conv = Draw::Uniform {
            bound: 1. / 48f32.sqrt(),
        };
        for (name, shape, draw) in [
            ("patch_embed.proj.weight", &[8, 3, 4, 4][..], conv),
            ("patch_embed.proj.bias", &[8], conv),
            ("patch_embed.norm.weight", &[8], Draw::Const(1.)),
            ("mask_token", &[1, 1, 8], normal),
            (
                "layers.0.blocks.0.attn.relative_position_bias_table",
                &[9, 2],
                normal,
            ),
            ("layers.0.downsample.reduction.weight", &[16, 32], normal),
            ("layers.0.blocks.0.attn.qkv.bias", &[24], Draw::Const(0.)),
        ] {
            assert_eq!(swin.draw(name, shape), draw, "{name}");
        }
        for (scheme, std) in [(BeitInit::default(), 0.02), (BeitInit::eva(), 0.015)] {
            let cut = |std| Draw::TruncNormal { std, cut: std };
            let second = scheme.draw("blocks.1.mlp.fc2.weight", &[8, 32]);
            assert_eq!(second, cut(std / 2.));
            assert_eq!(scheme.draw("pos_embed", &[1, 5, 8]), cut(std));
            let table = scheme.draw("rel_pos_bias.relative_position_bias_table", &[9, 2]);
            assert_eq!(table, Draw::Const(0.));
        }
    }
}
