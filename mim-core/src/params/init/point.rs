//! Initialisation of point cloud transformers.

use super::{Draw, InitScheme, is_token, vector};

/// Point-M2AE's scheme: encoder matrices N(0, 0.02) truncated at +-2, and zero biases; matrices of decoder blocks and
/// positions Xavier uniform; propagation and heads with PyTorch's default.
///
/// ZrrSkywalker/I2P-MAE @ 7d4e519, `models/I2P_MAE.py`.
#[derive(Debug, Clone, Default)]
pub struct PointInit {
    /// Widths of the decoder's stages, the coarsest first.
    pub decoder_dims: Vec<usize>,
}

impl PointInit {
    /// Fan-in of a layer of propagation or of a head, which the shape of its bias does not show.
    fn inputs(&self, name: &str) -> Option<usize> {
        let last = self.decoder_dims.last().copied();
        if name.starts_with("rec_head_") {
            return last;
        }
        let (stage, layer) = name.strip_prefix("token_prop.")?.split_once('.')?;
        let stage: usize = stage.parse().ok()?;
        let (coarse, dim) = (
            self.decoder_dims.get(stage)?,
            self.decoder_dims.get(stage + 1)?,
        );
        match layer {
            "fuse.net.0.weight" | "fuse.net.0.bias" => Some(coarse + dim),
            // Batch norm weights are 1, biases 0.
            _ if layer.contains(".1.")
                && !layer.contains("net1.0")
                && !layer.contains("net2.0") =>
            {
                None
            }
            _ => Some(*dim),
        }
    }
}

impl InitScheme for PointInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        let matrix = Draw::TruncNormal { std: 0.02, cut: 2. };
        if is_token(name) {
            return matrix;
        }
        if let Some(inputs) = self.inputs(name) {
            return Draw::torch(inputs);
        }
        match *shape {
            [rows, columns]
                if name.starts_with("h_decoder.") || name.starts_with("decoder_pos_embeds.") =>
            {
                Draw::xavier(rows, columns)
            }
            [] | [_] => vector(name),
            _ => matrix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_the_authors_scheme() {
        let init = PointInit {
            decoder_dims: vec![36, 24],
        };
        let matrix = Draw::TruncNormal { std: 0.02, cut: 2. };
        for (name, shape, draw) in [
            ("mask_token", &[1, 1, 36][..], matrix),
            ("token_embed.0.first_conv.0.weight", &[6, 3], matrix),
            ("token_embed.0.first_conv.0.bias", &[6], Draw::Const(0.)),
            ("token_embed.0.first_conv.1.weight", &[6], Draw::Const(1.)),
            (
                "h_decoder.0.blocks.0.mlp.fc1.weight",
                &[144, 36],
                Draw::xavier(144, 36),
            ),
            ("token_prop.0.fuse.net.0.bias", &[24], Draw::torch(60)),
            ("token_prop.0.fuse.net.1.weight", &[24], Draw::Const(1.)),
            (
                "token_prop.0.extraction.operation.0.net1.0.bias",
                &[24],
                Draw::torch(24),
            ),
            (
                "token_prop.0.extraction.operation.1.net2.1.bias",
                &[24],
                Draw::Const(0.),
            ),
            ("rec_head_3d.bias", &[12], Draw::torch(24)),
        ] {
            assert_eq!(init.draw(name, shape), draw, "{name}");
        }
    }
}
