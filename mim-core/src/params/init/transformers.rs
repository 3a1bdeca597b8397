//! The initial values of transformers' MAE.

use super::{Draw, InitScheme, is_token, vector};

/// What a freshly made `ViTMAEForPreTraining` of transformers 5.23 holds: matrices N(0, 0.02), all else zero (norms' weights one).
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
