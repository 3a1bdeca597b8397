//! Initial values of convolutional networks.

use super::{Draw, InitScheme, vector};

/// Of the discrete VAE of DALL-E, and of other convolutional tokenizers: normals of deviation `1 / sqrt(inputs)` of an
/// output, zero biases, norms one and zero.
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
