//! iBOT's initialisation.

use super::{Draw, InitScheme, SwinInit};

/// iBOT's scheme for ViT and Swin: [`SwinInit`], also for class token and position table. The mask token is
/// zero, and the last layers of the head are uniform within `1 / sqrt(inputs)`.
///
/// bytedance/ibot @ da316d8, `models/vision_transformer.py`, `models/head.py`.
#[derive(Debug, Clone, Copy)]
pub struct IbotInit {
    /// Pixel values per patch: `patch_size^2 * in_channels`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_heads_differ_from_swins() {
        let normal = Draw::TruncNormal { std: 0.02, cut: 2. };
        let conv = Draw::Uniform {
            bound: 1. / 48f32.sqrt(),
        };
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
    }
}
