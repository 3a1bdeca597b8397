//! Initialisation of convolutional networks.

use super::{Draw, InitScheme, vector};

/// The scheme of DALL-E's discrete VAE and other convolutional tokenizers: normals of deviation `1 / sqrt(fan-in)`,
/// zero biases, norm weights one and norm biases zero.
///
/// Ramesh et al., ICML 2021; openai/DALL-E, `dall_e/utils.py`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConvInit;

impl InitScheme for ConvInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match shape {
            [] | [_] => vector(name),
            [_, rest @ ..] => {
                let inputs: usize = rest.iter().product();
                Draw::Normal {
                    std: (inputs as f32).sqrt().recip(),
                }
            }
        }
    }
}
