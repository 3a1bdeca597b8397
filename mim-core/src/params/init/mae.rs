//! MAE's initialisation.

use super::{Draw, InitScheme, is_token, vector};

/// MAE's scheme: Xavier uniform matrices (the patch embedding as one matrix); zero biases, except that of the
/// patch embedding, which is uniform within `1 / sqrt(patch_values)`; tokens N(0, 0.02).
///
/// facebookresearch/mae @ efb2a80, `models_mae.py`.
#[derive(Debug, Clone, Copy)]
pub struct MaeInit {
    /// Pixel values per patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
}

impl InitScheme for MaeInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match shape {
            _ if is_token(name) => Draw::Normal { std: 0.02 },
            _ if name.ends_with("patch_embed.proj.bias") => Draw::torch(self.patch_values),
            [] | [_] => vector(name),
            [rows, rest @ ..] => Draw::xavier(*rows, rest.iter().product()),
        }
    }
}
