//! I-JEPA's initial values.

use super::{Draw, InitScheme, is_token, vector};

/// I-JEPA's: all matrices, the patch embedding and the mask token normal with a deviation of 0.02, all biases zero.
///
/// facebookresearch/ijepa @ 52c1ae9, `src/helper.py`.
#[derive(Debug, Clone, Copy)]
pub struct IJepaInit;

impl InitScheme for IJepaInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        // Parity: the division of the last layers of a block by its depth is undone by drawing them again.
        match shape {
            [] | [_] if !is_token(name) => vector(name),
            _ => Draw::TruncNormal { std: 0.02, cut: 2. },
        }
    }
}
