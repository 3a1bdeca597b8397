//! CAPI's initialisation.

use super::{Draw, InitScheme, is_token, vector};

/// CAPI's scheme: Xavier uniform matrices (the patch embedding as one matrix); zero biases, except that of the patch
/// embedding, which is uniform within `1 / sqrt(patch_values)`; tokens and registers N(0, 0.02). The rows of the
/// student's head are normal with deviation 0.02, those of the clustering head with deviation 1.
///
/// facebookresearch/capi @ 98b4fa1, `model.py`.
#[derive(Debug, Clone, Copy)]
pub struct CapiInit {
    /// Pixel values per patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
}

impl InitScheme for CapiInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match shape {
            _ if is_token(name) || name.ends_with("registers") => Draw::Normal { std: 0.02 },
            _ if name.ends_with("patch_embed.proj.bias") => Draw::torch(self.patch_values),
            _ if name.ends_with("weight_v") => Draw::TruncNormal { std: 0.02, cut: 2. },
            _ if name.ends_with("layer.weight") => Draw::Normal { std: 1. },
            [] | [_] => vector(name),
            [rows, rest @ ..] => Draw::xavier(*rows, rest.iter().product()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_registers_differ_from_other_matrices() {
        let init = CapiInit { patch_values: 48 };
        let draw = |name: &str, shape: &[usize]| init.draw(name, shape);
        assert_eq!(draw("registers", &[1, 4, 8]), Draw::Normal { std: 0.02 });
        assert_eq!(
            draw("clustering_head.layer.weight", &[5, 8]),
            Draw::Normal { std: 1. }
        );
        assert_eq!(draw("clustering_head.layer.bias", &[5]), Draw::Const(0.));
        let normal = Draw::TruncNormal { std: 0.02, cut: 2. };
        assert_eq!(draw("head.last_layer.weight_v", &[5, 8]), normal);
        assert_eq!(draw("encoder.blocks.0.norm1.weight", &[8]), Draw::Const(1.));
        assert_eq!(
            draw("encoder.blocks.0.attn.q_proj.weight", &[8, 8]),
            Draw::xavier(8, 8)
        );
    }
}
