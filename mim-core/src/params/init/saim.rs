//! SAIM's initialisation.

use super::{Draw, InitScheme, MaeInit};

/// [`MaeInit`] with queries, keys and values drawn as three matrices, which have a larger bound than one packed matrix.
///
/// qiy20/SAIM @ 08d36c3, `models_saim.py`.
#[derive(Debug, Clone, Copy)]
pub struct SaimInit {
    /// Pixel values per patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
}

impl InitScheme for SaimInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        let patch_values = self.patch_values;
        match shape {
            [rows, inputs] if name.ends_with("attn.qkv.weight") => Draw::xavier(rows / 3, *inputs),
            _ => MaeInit { patch_values }.draw(name, shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qkv_are_drawn_as_three_matrices() {
        let saim = SaimInit { patch_values: 48 };
        let qkv = saim.draw("query_blocks.0.attn.qkv.weight", &[24, 8]);
        assert_eq!(qkv, Draw::xavier(8, 8));
        let fc1 = saim.draw("blocks.0.mlp.fc1.weight", &[32, 8]);
        assert_eq!(fc1, Draw::xavier(32, 8));
    }
}
