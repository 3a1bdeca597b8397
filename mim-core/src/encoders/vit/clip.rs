//! Sizes of CLIP's vision transformer.

use super::VitConfig;
use crate::nn::{Activation, PosEmbedKind};
use crate::{Error, Result};

/// A size of CLIP: (name, image, patch, dim, depth, projection); heads are 64 wide.
type ClipArch = (&'static str, usize, usize, usize, usize, usize);

const CLIP_ARCHS: [ClipArch; 4] = [
    ("clip_vit_base_patch16", 224, 16, 768, 12, 512),
    ("clip_vit_base_patch32", 224, 32, 768, 12, 512),
    ("clip_vit_large_patch14", 224, 14, 1024, 24, 768),
    ("clip_vit_large_patch14_336", 336, 14, 1024, 24, 768),
];

impl VitConfig {
    /// CLIP's vision transformer of size `arch`: `clip_vit_base_patch16`, `clip_vit_base_patch32`,
    /// `clip_vit_large_patch14` or `clip_vit_large_patch14_336` (Radford et al., ICML 2021).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] listing the known sizes.
    pub fn clip(arch: &str) -> Result<Self> {
        let found = CLIP_ARCHS.iter().find(|(name, ..)| *name == arch);
        let size = found.ok_or_else(|| {
            let known: Vec<_> = CLIP_ARCHS.iter().map(|(name, ..)| *name).collect();
            let fix = format!("use one of {}", known.join(", "));
            Error::config("clip", "arch", arch, "it is not a known size", fix)
        })?;
        Ok(Self::clip_size(size))
    }

    /// CLIP's ViT-B/16 vision transformer.
    pub fn clip_base() -> Self {
        Self::clip_size(&CLIP_ARCHS[0])
    }

    /// CLIP's ViT-L/14 vision transformer.
    pub fn clip_large() -> Self {
        Self::clip_size(&CLIP_ARCHS[2])
    }

    fn clip_size(
        &(_, image_size, patch_size, embed_dim, depth, projection_dim): &ClipArch,
    ) -> Self {
        Self {
            image_size: image_size.into(),
            patch_size,
            embed_dim,
            depth,
            num_heads: embed_dim / 64,
            norm_eps: 1e-5,
            pos_embed: PosEmbedKind::Learned,
            activation: Activation::QuickGelu,
            patch_bias: false,
            norm_pre: true,
            projection_dim: Some(projection_dim),
            ..Self::default()
        }
    }
}
