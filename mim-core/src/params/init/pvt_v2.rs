//! PVTv2's initialisation.

use super::{Draw, InitScheme, vector};

/// PVTv2's scheme: convolutions N(0, 2 / fan-out), where a depth-wise kernel counts only its own channel;
/// matrices N(0, 0.02) truncated at +-2; zero biases.
///
/// whai362/PVT, `v2/pvt_v2.py`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PvtV2Init;

impl InitScheme for PvtV2Init {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match *shape {
            [] | [_] => vector(name),
            [outputs, _, height, width] => {
                let depthwise = name.ends_with("dwconv.weight");
                let reached = height * width * if depthwise { 1 } else { outputs };
                Draw::Normal {
                    std: (2. / reached as f32).sqrt(),
                }
            }
            _ => Draw::TruncNormal { std: 0.02, cut: 2. },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn convolutions_use_their_fan_out() {
        for (name, shape, std) in [
            ("patch_embed1.proj.weight", [32, 1, 3, 3], 2. / 288f32),
            ("block1.0.mlp.dwconv.dwconv.weight", [8, 1, 3, 3], 2. / 9f32),
        ] {
            let std = std.sqrt();
            assert_eq!(PvtV2Init.draw(name, &shape), Draw::Normal { std }, "{name}");
        }
        let bias = PvtV2Init.draw("block1.0.mlp.dwconv.dwconv.bias", &[8]);
        assert_eq!(bias, Draw::Const(0.));
        let normal = Draw::TruncNormal { std: 0.02, cut: 2. };
        assert_eq!(PvtV2Init.draw("block1.0.attn.q.weight", &[8, 8]), normal);
    }
}
