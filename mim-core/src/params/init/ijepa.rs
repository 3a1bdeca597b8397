//! I-JEPA's initialisation.

use super::{Draw, InitScheme, is_token, vector};

/// I-JEPA's scheme: all matrices, the patch embedding and the mask token are normal with deviation 0.02; biases are
/// zero.
///
/// facebookresearch/ijepa @ 52c1ae9, `src/helper.py`.
#[derive(Debug, Clone, Copy)]
pub struct IJepaInit;

impl InitScheme for IJepaInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        // Parity: the release divides the last layers of a block by its depth, but then draws them again.
        match shape {
            [] | [_] if !is_token(name) => vector(name),
            _ => Draw::TruncNormal { std: 0.02, cut: 2. },
        }
    }
}
