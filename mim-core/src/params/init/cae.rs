//! CAE's initialisation.

use super::{BeitInit, Draw, InitScheme, is_token, vector};

/// CAE's scheme: Xavier uniform matrices, packed ones as one matrix, and zero biases; tokens and patch embedding follow
/// BEiT.
///
/// Atten4Vis/CAE @ a7fd162, `models/modeling_cae.py`.
#[derive(Debug, Clone, Copy, Default)]
pub struct CaeInit;

impl InitScheme for CaeInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match *shape {
            _ if is_token(name) => BeitInit::default().draw(name, shape),
            [_, _, _, _] => BeitInit::default().draw(name, shape),
            [rows, cols] => Draw::xavier(rows, cols),
            _ => vector(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_xavier_and_the_rest_follows_beit() {
        let cut = Draw::TruncNormal {
            std: 0.02,
            cut: 0.02,
        };
        for (name, shape, draw) in [
            ("patch_embed.proj.weight", &[8, 3, 4, 4][..], cut),
            ("patch_embed.proj.bias", &[8], Draw::Const(0.)),
            ("cls_token", &[1, 1, 8], cut),
            ("regressor.mask_token", &[1, 1, 8], cut),
            ("blocks.1.attn.qkv.weight", &[24, 8], Draw::xavier(24, 8)),
            ("blocks.1.mlp.fc2.weight", &[8, 32], Draw::xavier(8, 32)),
            ("regressor.blocks.0.attn.q_bias", &[8], Draw::Const(0.)),
            ("norm.weight", &[8], Draw::Const(1.)),
        ] {
            assert_eq!(CaeInit.draw(name, shape), draw, "{name}");
        }
    }
}
