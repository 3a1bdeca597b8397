//! FastMIM's initialisation.

use super::{Draw, InitScheme, MaeInit, PvtV2Init, SwinInit, is_token};

/// FastMIM's scheme: all matrices Xavier uniform, including the encoder's, tokens N(0, 0.02), zero biases.
///
/// A ViT follows MAE. In encoders under `encoder.`, only convolutions and relative position
/// tables keep their own scheme. ggjy/FastMIM.pytorch @ d4eea0d, `mim_{vit,swin,pvtv2}_pretrain.py`.
#[derive(Debug, Clone, Copy)]
pub struct FastMimInit {
    /// Pixel values per patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
}

impl InitScheme for FastMimInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        let patch_values = self.patch_values;
        let own = name.starts_with("encoder.patch_embed.proj.")
            || name.ends_with("relative_position_bias_table");
        match shape {
            _ if own => SwinInit { patch_values }.draw(name, shape),
            [_, _, _, _] if name.starts_with("encoder.") && !is_token(name) => {
                PvtV2Init.draw(name, shape)
            }
            _ => MaeInit { patch_values }.draw(name, shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_convolutions_and_tables_of_inner_encoders_keep_their_scheme() {
        let scheme = FastMimInit { patch_values: 48 };
        let conv = Draw::torch(48);
        for (name, shape, draw) in [
            ("mask_token", &[1, 3, 1, 1][..], Draw::Normal { std: 0.02 }),
            ("cls_token", &[1, 1, 8], Draw::Normal { std: 0.02 }),
            (
                "patch_embed.proj.weight",
                &[8, 3, 4, 4],
                Draw::xavier(8, 48),
            ),
            ("patch_embed.proj.bias", &[8], conv),
            ("encoder.patch_embed.proj.weight", &[8, 3, 4, 4], conv),
            ("encoder.patch_embed.proj.bias", &[8], conv),
            (
                "encoder.layers.0.blocks.0.attn.relative_position_bias_table",
                &[9, 2],
                Draw::TruncNormal { std: 0.02, cut: 2. },
            ),
            (
                "encoder.layers.0.downsample.reduction.weight",
                &[16, 32],
                Draw::xavier(16, 32),
            ),
            (
                "encoder.patch_embed1.proj.weight",
                &[8, 3, 2, 2],
                Draw::Normal { std: 0.25 },
            ),
            ("encoder.patch_embed1.proj.bias", &[8], Draw::Const(0.)),
            (
                "encoder.block1.0.mlp.fc1.weight",
                &[16, 8],
                Draw::xavier(16, 8),
            ),
            ("encoder.norm4.weight", &[8], Draw::Const(1.)),
            ("decoder_embed.weight", &[4, 8], Draw::xavier(4, 8)),
            ("decoder_pred.bias", &[8], Draw::Const(0.)),
        ] {
            assert_eq!(scheme.draw(name, shape), draw, "{name}");
        }
    }
}
