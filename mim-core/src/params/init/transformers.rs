//! Initialisation of MAE in transformers.

use super::{Draw, InitScheme, is_token, vector};

/// The scheme of a new `ViTMAEForPreTraining` in transformers 5.23: matrices N(0, 0.02), norm weights one, everything
/// else zero.
#[derive(Debug, Clone, Copy, Default)]
pub struct TransformersInit;

impl InitScheme for TransformersInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match shape {
            _ if is_token(name) => Draw::Const(0.),
            [] | [_] => vector(name),
            _ => Draw::Normal { std: 0.02 },
        }
    }
}
