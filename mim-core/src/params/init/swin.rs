//! Swin's initialisation.

use super::{Draw, InitScheme, vector};

/// Swin's scheme: matrices, relative position tables and mask token N(0, 0.02) truncated at +-2 (a hundred
/// deviations, so effectively not); the patch embedding with PyTorch's default for convolutions.
///
/// microsoft/SimMIM @ d3e29bc, `models/swin_transformer.py`.
#[derive(Debug, Clone, Copy)]
pub struct SwinInit {
    /// Pixel values per patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
}

impl InitScheme for SwinInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        match shape {
            _ if name.contains("patch_embed.proj.") => Draw::torch(self.patch_values),
            [] | [_] => vector(name),
            _ => Draw::TruncNormal { std: 0.02, cut: 2. },
        }
    }
}
