//! Infers the sizes of a ViT from its weights.

use std::collections::BTreeSet;

use super::{RelPosBiasKind, VitConfig};
use crate::nn::{PosEmbedKind, QkvBias};
use crate::weights::WeightMap;
use crate::{Error, Result};

/// Known widths with heads that are not 64 wide: (width, heads).
const HEADS: [(usize, usize); 3] = [(1280, 16), (1408, 16), (1664, 16)];

impl VitConfig {
    /// The settings of weights in mim's names, as far as shapes determine them: image and patch size, channels,
    /// width, depth, MLP, biases, layer scale, class token, positions and norms.
    ///
    /// Shapes do not determine the number of heads, assumed to be `embed_dim / 64` (16 for widths of 1280, 1408 and
    /// 1664), nor `norm_eps` and `activation`, which keep their defaults.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if they do not belong to a ViT.
    pub fn of_weights(weights: &WeightMap) -> Result<Self> {
        let dims = |name: &str| weights.get(name).map(|tensor| tensor.dims().to_vec());
        let has = |name: &str| weights.get(name).is_some();
        let unknown = |why: &'static str| {
            let fix = "name their source (--source), or set the sizes with --set encoder.KEY=VALUE";
            Error::unsupported("finding the encoder of these weights", why, fix)
        };
        let patch = dims("patch_embed.proj.weight").unwrap_or_default();
        let &[embed_dim, in_channels, patch_size, _] = patch.as_slice() else {
            return Err(unknown("they have no patch_embed.proj.weight"));
        };
        let blocks = weights
            .names()
            .filter_map(|name| name.strip_prefix("blocks.")?.split('.').next());
        let depth = blocks.collect::<BTreeSet<_>>().len();
        let hidden = dims("blocks.0.mlp.fc1.weight").and_then(|dims| dims.first().copied());
        let Some(hidden) = hidden.filter(|_| !has("layers.0.blocks.0.norm1.weight")) else {
            return Err(unknown(
                "they have no blocks.0.mlp.fc1.weight, which every ViT has",
            ));
        };
        let heads = HEADS.iter().find(|(width, _)| *width == embed_dim);
        let positions = dims("pos_embed").and_then(|dims| dims.get(1).copied());
        let why = "their positions do not belong to a square image";
        let classes = dims("cls_token")
            .and_then(|dims| dims.get(1).copied())
            .unwrap_or(1);
        let image_size = side(positions, patch_size, classes).ok_or_else(|| unknown(why))?;
        let without_class =
            positions.is_some_and(|rows| rows.isqrt().pow(2) == rows && !has("cls_token"));
        Ok(Self {
            image_size: image_size.into(),
            patch_size,
            in_channels,
            embed_dim,
            depth,
            num_heads: heads.map_or((embed_dim / 64).max(1), |(_, heads)| *heads),
            mlp_ratio: hidden as f64 / embed_dim as f64,
            qkv_bias: qkv_bias(has),
            layer_scale_init: has("blocks.0.gamma_1").then_some(1.),
            pos_embed: match positions {
                Some(_) => PosEmbedKind::Learned,
                None => PosEmbedKind::None,
            },
            rel_pos_bias: rel_pos_bias(has),
            class_token: !without_class,
            num_class_tokens: classes,
            final_norm: has("norm.weight"),
            patch_bias: has("patch_embed.proj.bias"),
            norm_pre: has("norm_pre.weight"),
            projection_dim: dims("proj.weight").and_then(|dims| dims.first().copied()),
            ..Self::default()
        })
    }
}

fn qkv_bias(has: impl Fn(&str) -> bool) -> QkvBias {
    match (has("blocks.0.attn.qkv.bias"), has("blocks.0.attn.q_bias")) {
        (true, _) => QkvBias::Full,
        (false, true) => QkvBias::QV,
        (false, false) => QkvBias::None,
    }
}

fn rel_pos_bias(has: impl Fn(&str) -> bool) -> RelPosBiasKind {
    let shared = has("rel_pos_bias.relative_position_bias_table");
    let per_block = has("blocks.0.attn.relative_position_bias_table");
    match (shared, per_block) {
        (true, true) => RelPosBiasKind::Both,
        (true, false) => RelPosBiasKind::Shared,
        (false, true) => RelPosBiasKind::PerBlock,
        (false, false) => RelPosBiasKind::None,
    }
}

impl VitConfig {
    /// Checks that weights in mim's names belong to a network of this size, as far as shapes show.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first size that differs, with the size of the weights.
    pub fn check_weights(&self, weights: &WeightMap) -> Result<()> {
        // Weights that are not a ViT are reported name by name when they are loaded.
        let Ok(found) = Self::of_weights(weights) else {
            return Ok(());
        };
        let projection = |config: &Self| config.projection_dim.unwrap_or(0);
        let sizes = [
            ("embed_dim", self.embed_dim, found.embed_dim),
            ("depth", self.depth, found.depth),
            ("patch_size", self.patch_size, found.patch_size),
            ("in_channels", self.in_channels, found.in_channels),
            ("projection_dim", projection(self), projection(&found)),
        ];
        match sizes.into_iter().find(|(_, own, found)| own != found) {
            None => Ok(()),
            Some((field, own, found)) => Err(Error::config(
                "encoder",
                field,
                own,
                format!("the weights belong to a network with {found}"),
                format!("set {field} = {found}, or use other weights"),
            )),
        }
    }
}

/// Side in pixels of the square image for this number of position rows, with or without rows for `classes` class
/// tokens; about 224 without positions.
fn side(positions: Option<usize>, patch_size: usize, classes: usize) -> Option<usize> {
    let Some(rows) = positions else {
        return Some(224 / patch_size * patch_size);
    };
    let mut patches = [rows.saturating_sub(classes), rows].into_iter();
    let square = patches.find(|patches| patches.isqrt().pow(2) == *patches)?;
    Some(square.isqrt() * patch_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::encoders::Vit;

    #[test]
    fn settings_are_inferred_from_weights() {
        let base = VitConfig {
            image_size: 32.into(),
            patch_size: 8,
            in_channels: 1,
            embed_dim: 128,
            depth: 3,
            num_heads: 2,
            mlp_ratio: 3.,
            pos_embed: PosEmbedKind::Learned,
            ..VitConfig::default()
        };
        let beit = VitConfig {
            image_size: 224.into(),
            patch_size: 16,
            qkv_bias: QkvBias::QV,
            layer_scale_init: Some(1.),
            pos_embed: PosEmbedKind::None,
            rel_pos_bias: RelPosBiasKind::PerBlock,
            final_norm: false,
            ..base.clone()
        };
        for config in [base, beit] {
            let store = ParamStore::cpu(0);
            Vit::new(&store.root(), &config).unwrap();
            let vars = store.vars().into_iter();
            let weights = vars
                .map(|(name, var)| (name, var.as_detached_tensor()))
                .collect();
            assert_eq!(VitConfig::of_weights(&weights).unwrap(), config);
            assert!(config.check_weights(&weights).is_ok());
            let wider = VitConfig {
                embed_dim: 256,
                ..config
            };
            let error = wider.check_weights(&weights).unwrap_err().to_string();
            assert!(error.contains("set embed_dim = 128"), "{error}");
        }
        let error = VitConfig::of_weights(&WeightMap::default()).unwrap_err();
        assert!(
            error.to_string().contains("no patch_embed.proj.weight"),
            "{error}"
        );
    }
}
