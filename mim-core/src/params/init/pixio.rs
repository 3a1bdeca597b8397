//! Pixio's initialisation.

use super::{Draw, InitScheme, MaeInit};

/// Pixio's scheme: MAE's, and both trained position tables are normal with deviation 0.02.
///
/// facebookresearch/pixio @ b83555d.
#[derive(Debug, Clone, Copy)]
pub struct PixioInit {
    /// Pixel values per patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
}

impl InitScheme for PixioInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        if name.ends_with("pos_embed") {
            return Draw::TruncNormal { std: 0.02, cut: 2. };
        }
        let patch_values = self.patch_values;
        MaeInit { patch_values }.draw(name, shape)
    }
}
