//! BEiT's initialisation.

use super::{Draw, InitScheme, is_token, vector};

/// BEiT's scheme, and SimMIM's for ViT: normals of deviation 0.02 (EVA: 0.015), truncated at one deviation. The output
/// matrices of block `l` (from 1) are divided by `sqrt(2 l)`; relative position tables are zero.
///
/// microsoft/unilm `beit/modeling_pretrain.py`; microsoft/SimMIM @ d3e29bc, `models/simmim.py`; baaivision/EVA @
/// 5623d08, `modeling_pretrain.py`.
#[derive(Debug, Clone, Copy)]
pub struct BeitInit {
    /// Standard deviation before truncation.
    pub std: f32,
}

impl Default for BeitInit {
    fn default() -> Self {
        Self { std: 0.02 }
    }
}

impl BeitInit {
    /// EVA's scheme.
    pub fn eva() -> Self {
        Self { std: 0.015 }
    }
}

impl InitScheme for BeitInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        let normal = |scale: f32| Draw::TruncNormal {
            std: self.std / scale,
            cut: self.std / scale,
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

/// The number of the block in `...blocks.N...`, from 1.
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
