//! Initialisation belongs to the paper, not to the layer: schemes map names and shapes to draws.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

/// A distribution of initial values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Draw {
    /// One value.
    Const(f32),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Normal with mean 0, redrawn outside `[-cut, cut]`.
    TruncNormal {
        /// Standard deviation before the cut.
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
    /// Glorot's uniform for a matrix of `rows` outputs and `cols` inputs.
    pub fn xavier(rows: usize, cols: usize) -> Self {
        Self::Uniform {
            bound: (6. / (rows + cols) as f32).sqrt(),
        }
    }

    /// PyTorch's default for weight and bias of a linear or convolutional layer of `inputs` inputs.
    pub fn torch(inputs: usize) -> Self {
        Self::Uniform {
            bound: 1. / (inputs as f32).sqrt(),
        }
    }

    /// `count` values.
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

/// The schemes a config can name.
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
    /// [`BootMaeInit`].
    #[serde(rename = "bootmae")]
    BootMae,
    /// [`SwinInit`].
    Swin,
    /// [`IbotInit`].
    Ibot,
}

impl Init {
    /// The scheme for a network whose patches hold `patch_values` numbers.
    pub fn build(self, patch_values: usize) -> Box<dyn InitScheme> {
        match self {
            Self::Mae => Box::new(MaeInit { patch_values }),
            Self::Transformers => Box::new(TransformersInit),
            Self::Beit => Box::new(BeitInit),
            Self::BootMae => Box::new(BootMaeInit { patch_values }),
            Self::Swin => Box::new(SwinInit { patch_values }),
            Self::Ibot => Box::new(IbotInit { patch_values }),
        }
    }
}

/// Tokens that stand for no patch: drawn as vectors, not as matrices.
fn is_token(name: &str) -> bool {
    name.ends_with("cls_token") || name.ends_with("mask_token") || name.ends_with("masked_embed")
}

/// 1-D parameters that start at one: norms' weights. Everything else 1-D starts at zero.
fn vector(name: &str) -> Draw {
    Draw::Const(if name.ends_with("weight") { 1. } else { 0. })
}

/// MAE's: Xavier uniform matrices (the patch embedding as one matrix), zero biases but for the
/// patch embedding's, which is uniform within `1 / sqrt(patch_values)`, tokens N(0, 0.02).
///
/// facebookresearch/mae @ efb2a80, `models_mae.py`.
#[derive(Debug, Clone, Copy)]
pub struct MaeInit {
    /// Numbers in a patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
}

impl InitScheme for MaeInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match shape {
            _ if is_token(name) => Draw::Normal { std: 0.02 },
            _ if name.ends_with("patch_embed.proj.bias") => Draw::torch(self.patch_values),
            [] | [_] => vector(name),
            [rows, rest @ ..] => Draw::xavier(*rows, rest.iter().product()),
        }
    }
}

/// What a freshly made `ViTMAEForPreTraining` of transformers 5.23 holds: matrices N(0, 0.02), all else zero (norms' weights one).
#[derive(Debug, Clone, Copy, Default)]
pub struct TransformersInit;

impl InitScheme for TransformersInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match shape {
            _ if is_token(name) => Draw::Const(0.),
            [] | [_] => vector(name),
            _ => Draw::Normal { std: 0.02 },
        }
    }
}

/// BEiT's and SimMIM's for ViT: normals of deviation 0.02 cut at one deviation, the output matrices
/// of block `l` (from 1) divided by `sqrt(2 l)`, relative position tables zero.
///
/// microsoft/unilm `beit/modeling_pretrain.py`; microsoft/SimMIM @ d3e29bc, `models/simmim.py`.
#[derive(Debug, Clone, Copy, Default)]
pub struct BeitInit;

impl InitScheme for BeitInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        let normal = |scale: f32| Draw::TruncNormal {
            std: 0.02 / scale,
            cut: 0.02 / scale,
        };
        match shape {
            _ if is_token(name) => normal(1.),
            _ if name.ends_with("relative_position_bias_table") => Draw::Const(0.),
            [] | [_] => vector(name),
            _ if name.ends_with("attn.proj.weight") || name.ends_with("mlp.fc2.weight") => {
                normal((2. * block_number(name) as f32).sqrt())
            }
            _ => normal(1.),
        }
    }
}

/// BootMAE's: Xavier uniform matrices, those of query, key and value each for itself where they are
/// packed as `qkv`; zero biases; mask tokens normal, cut at one deviation of 0.02; the pixel head as
/// PyTorch starts a transposed convolution, uniform within `1 / sqrt(patch_values)`.
///
/// LightDXY/BootMAE @ d604b18, `models/modeling_pretrain_bootmae.py`.
#[derive(Debug, Clone, Copy)]
pub struct BootMaeInit {
    /// Numbers in a patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
}

impl InitScheme for BootMaeInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        let pixel_head = Draw::Uniform {
            bound: 1. / (self.patch_values as f32).sqrt(),
        };
        match shape {
            _ if name.ends_with("cls_token") => Draw::Normal { std: 1e-6 },
            _ if name.ends_with("mask_token") => Draw::TruncNormal {
                std: 0.02,
                cut: 0.02,
            },
            // The head of a second decoder, of features, has another name and is a matrix.
            _ if name == "decoder_pred.bias" => pixel_head,
            [_, _, _, _] if name == "decoder_pred.weight" => pixel_head,
            [] | [_] => vector(name),
            [rows, cols] if name.ends_with("qkv.weight") => Draw::xavier(rows / 3, *cols),
            [rows, rest @ ..] => Draw::xavier(*rows, rest.iter().product()),
        }
    }
}

/// Swin's: matrices, relative position tables and mask token N(0, 0.02) cut at +-2 (a hundred
/// deviations, so in effect not at all), the patch embedding as PyTorch starts a convolution.
///
/// microsoft/SimMIM @ d3e29bc, `models/swin_transformer.py`.
#[derive(Debug, Clone, Copy)]
pub struct SwinInit {
    /// Numbers in a patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
}

impl InitScheme for SwinInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match shape {
            _ if name.contains("patch_embed.proj.") => Draw::torch(self.patch_values),
            [] | [_] => vector(name),
            _ => Draw::TruncNormal { std: 0.02, cut: 2. },
        }
    }
}

/// iBOT's for ViT and Swin: [`SwinInit`], also for class token and position table, the mask token
/// zero, and the last layers of the head uniform within `1 / sqrt(inputs)`.
///
/// bytedance/ibot @ da316d8, `models/vision_transformer.py`, `models/head.py`.
#[derive(Debug, Clone, Copy)]
pub struct IbotInit {
    /// Numbers in a patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
}

impl InitScheme for IbotInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match shape {
            _ if name.ends_with("mask_token") => Draw::Const(0.),
            [_, inputs] if name.ends_with("weight_v") => Draw::torch(*inputs),
            _ => {
                let patch_values = self.patch_values;
                SwinInit { patch_values }.draw(name, shape)
            }
        }
    }
}

/// CMAE's: MAE's, but the affine maps of `projector` and `predictor` uniform within
/// `1 / sqrt(inputs)`, biases too, as the framework makes them.
///
/// ZhichengHuang/CMAE @ e786a52, `necks/nonlinear_neck.py`.
#[derive(Debug, Clone, Copy)]
pub struct CmaeInit {
    /// Numbers in a patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
    /// Width of the rows that the projector takes.
    pub projector_inputs: usize,
    /// Width of the rows that the predictor takes.
    pub predictor_inputs: usize,
}

impl InitScheme for CmaeInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        let head = name.starts_with("projector.") || name.starts_with("predictor.");
        let inputs = match (name, shape) {
            ("projector.fc0.bias", _) => self.projector_inputs,
            ("predictor.fc0.bias", _) => self.predictor_inputs,
            (_, &[_, inputs]) if head => inputs,
            _ => {
                let patch_values = self.patch_values;
                return MaeInit { patch_values }.draw(name, shape);
            }
        };
        Draw::Uniform {
            bound: 1. / (inputs as f32).sqrt(),
        }
    }
}

/// The block of `...blocks.N...`, counted from 1.
fn block_number(name: &str) -> usize {
    let mut parts = name
        .split('.')
        .skip_while(|part| !part.ends_with("blocks"))
        .skip(1);
    parts
        .next()
        .and_then(|number| number.parse::<usize>().ok())
        .map_or(1, |number| number + 1)
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
        // A normal cut at one deviation keeps 0.5396 of it.
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
    fn cmaes_heads_start_as_the_framework_makes_them() {
        let init = CmaeInit {
            patch_values: 48,
            projector_inputs: 16,
            predictor_inputs: 8,
        };
        let bound = |inputs: f32| Draw::Uniform {
            bound: 1. / inputs.sqrt(),
        };
        assert_eq!(init.draw("projector.fc0.weight", &[12, 16]), bound(16.));
        assert_eq!(init.draw("projector.fc0.bias", &[12]), bound(16.));
        assert_eq!(init.draw("predictor.fc0.bias", &[6]), bound(8.));
        assert_eq!(init.draw("predictor.fc1.weight", &[8, 6]), bound(6.));
        assert_eq!(init.draw("projector.bn0.weight", &[12]), Draw::Const(1.));
        assert_eq!(
            init.draw("feature.decoder_embed.weight", &[8, 16]),
            Draw::xavier(8, 16)
        );
    }

    #[test]
    fn schemes_tell_parameters_apart_by_name() {
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
        let ibot = IbotInit { patch_values: 48 };
        for (name, shape, draw) in [
            ("patch_embed.proj.bias", &[8][..], conv),
            ("mask_token", &[1, 1, 8], Draw::Const(0.)),
            ("pos_embed", &[1, 5, 8], normal),
            ("head.mlp.0.weight", &[8, 8], normal),
            ("head.last_layer.weight_v", &[4, 48], conv),
        ] {
            assert_eq!(ibot.draw(name, shape), draw, "{name}");
        }
        let second = 0.02 / 2.;
        assert_eq!(
            BeitInit.draw("blocks.1.mlp.fc2.weight", &[8, 32]),
            Draw::TruncNormal {
                std: second,
                cut: second
            }
        );
    }

    #[test]
    fn bootmae_starts_query_key_and_value_apart_and_its_pixel_head_as_a_convolution() {
        let scheme = BootMaeInit { patch_values: 48 };
        let head = Draw::Uniform {
            bound: 1. / 48f32.sqrt(),
        };
        let cut = Draw::TruncNormal {
            std: 0.02,
            cut: 0.02,
        };
        for (name, shape, draw) in [
            ("blocks.0.attn.qkv.weight", &[24, 8][..], Draw::xavier(8, 8)),
            (
                "decoder_blocks.0.c_attn.kv.weight",
                &[12, 8],
                Draw::xavier(12, 8),
            ),
            (
                "patch_embed.proj.weight",
                &[8, 3, 4, 4],
                Draw::xavier(8, 48),
            ),
            ("patch_embed.proj.bias", &[8], Draw::Const(0.)),
            ("cls_token", &[1, 1, 8], Draw::Normal { std: 1e-6 }),
            ("mask_token", &[1, 1, 6], cut),
            ("feature.mask_token", &[1, 1, 8], cut),
            ("decoder_pred.weight", &[6, 3, 4, 4], head),
            ("decoder_pred.bias", &[3], head),
            ("feature.decoder_pred.weight", &[8, 8], Draw::xavier(8, 8)),
            ("feature.decoder_pred.bias", &[8], Draw::Const(0.)),
            ("blocks.0.attn.q_bias", &[8], Draw::Const(0.)),
            ("norm.weight", &[8], Draw::Const(1.)),
        ] {
            assert_eq!(scheme.draw(name, shape), draw, "{name}");
        }
    }
}
