//! BootMAE's initialisation.

use super::{Draw, InitScheme, vector};

/// BootMAE's scheme: Xavier uniform matrices, with query, key and value drawn separately if they are
/// packed as `qkv`; zero biases; mask tokens normal with deviation 0.02, truncated at one deviation. The pixel head has
/// PyTorch's default for transposed convolutions, uniform within `1 / sqrt(patch_values)`.
///
/// LightDXY/BootMAE @ d604b18, `models/modeling_pretrain_bootmae.py`.
#[derive(Debug, Clone, Copy)]
pub struct BootMaeInit {
    /// Pixel values per patch: `patch_size^2 * in_channels`.
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
            // A second decoder, for features, names its head differently; it is a matrix.
            _ if name == "decoder_pred.bias" => pixel_head,
            [_, _, _, _] if name == "decoder_pred.weight" => pixel_head,
            [] | [_] => vector(name),
            [rows, cols] if name.ends_with("qkv.weight") => Draw::xavier(rows / 3, *cols),
            [rows, rest @ ..] => Draw::xavier(*rows, rest.iter().product()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qkv_are_drawn_separately_and_the_pixel_head_like_a_convolution() {
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
