//! Initialisation of ConvMAE's encoder and of the layers on top of it.

use super::ConvMaeConfig;
use crate::params::{Draw, InitScheme};

/// ConvMAE's scheme: convolutions have PyTorch's default, except the weight of the third patch embedding,
/// which is Xavier uniform like all matrices; other biases are zero, the mask token is N(0, 0.02).
///
/// Alpha-VL/ConvMAE @ 4c97b4c, `models_convmae.py`.
#[derive(Debug, Clone)]
pub struct ConvMaeInit(pub ConvMaeConfig);

impl ConvMaeInit {
    /// Fan-in of the convolution `name`; `None` if it is not a convolution.
    fn inputs(&self, name: &str) -> Option<usize> {
        let ConvMaeConfig {
            in_channels,
            patch_sizes: [first, second, third],
            embed_dims: dims,
            ..
        } = self.0;
        let area = |side: usize| side * side;
        let (layer, _) = name.rsplit_once('.')?;
        match layer {
            "patch_embed1.proj" => return Some(in_channels * area(first)),
            "patch_embed2.proj" => return Some(dims[0] * area(second)),
            "patch_embed3.proj" => return Some(dims[1] * area(third)),
            "stage1_output_decode" => return Some(dims[0] * area(second * third)),
            "stage2_output_decode" => return Some(dims[1] * area(third)),
            _ => {}
        }
        let (stage, within) = match layer.split_once('.')? {
            ("blocks1", within) => (0, within),
            ("blocks2", within) => (1, within),
            _ => return None,
        };
        match within.split_once('.')?.1 {
            "conv1" | "conv2" | "mlp.fc1" => Some(dims[stage]),
            "mlp.fc2" => Some(self.0.hidden_dim(stage)),
            "attn" => Some(area(crate::nn::ConvBlock::KERNEL)),
            _ => None,
        }
    }
}

impl InitScheme for ConvMaeInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match (self.inputs(name), shape) {
            _ if name.ends_with("mask_token") => Draw::Normal { std: 0.02 },
            (Some(inputs), _) if name != "patch_embed3.proj.weight" => Draw::torch(inputs),
            (_, [] | [_]) => Draw::Const(if name.ends_with("weight") { 1. } else { 0. }),
            (_, [rows, rest @ ..]) => Draw::xavier(*rows, rest.iter().product()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn convolutions_and_matrices_are_initialised_differently() {
        let scheme = ConvMaeInit(ConvMaeConfig {
            embed_dims: [4, 6, 8],
            mlp_ratios: [2., 4., 4.],
            ..ConvMaeConfig::default()
        });
        for (name, shape, draw) in [
            (
                "patch_embed1.proj.weight",
                &[4, 3, 4, 4][..],
                Draw::torch(48),
            ),
            ("patch_embed2.proj.bias", &[6], Draw::torch(16)),
            (
                "patch_embed3.proj.weight",
                &[8, 6, 2, 2],
                Draw::xavier(8, 24),
            ),
            ("patch_embed3.proj.bias", &[8], Draw::torch(24)),
            ("patch_embed4.weight", &[8, 8], Draw::xavier(8, 8)),
            ("patch_embed4.bias", &[8], Draw::Const(0.)),
            ("stage1_output_decode.bias", &[8], Draw::torch(64)),
            (
                "stage2_output_decode.weight",
                &[8, 6, 2, 2],
                Draw::torch(24),
            ),
            ("blocks1.0.attn.weight", &[4, 1, 5, 5], Draw::torch(25)),
            ("blocks1.0.mlp.fc2.weight", &[4, 8], Draw::torch(8)),
            ("blocks2.1.mlp.fc2.bias", &[6], Draw::torch(24)),
            ("blocks2.1.norm1.weight", &[6], Draw::Const(1.)),
            ("blocks3.0.attn.qkv.weight", &[24, 8], Draw::xavier(24, 8)),
            ("mask_token", &[1, 1, 4], Draw::Normal { std: 0.02 }),
            ("decoder_pred.bias", &[12], Draw::Const(0.)),
        ] {
            assert_eq!(scheme.draw(name, shape), draw, "{name}");
        }
    }
}
