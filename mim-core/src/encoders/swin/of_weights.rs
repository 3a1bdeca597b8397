//! Infers the sizes of a Swin transformer from its weights.

use super::SwinConfig;
use crate::nn::QkvBias;
use crate::weights::WeightMap;
use crate::{Error, Result};

impl SwinConfig {
    /// Whether weights in mim's names look like those of a Swin transformer.
    pub fn looks_like(weights: &WeightMap) -> bool {
        weights.get("layers.0.blocks.0.norm1.weight").is_some()
    }

    /// The settings of weights in mim's names, as far as shapes determine them: patch size, channels, width, blocks,
    /// heads and windows of the stages, MLP and biases.
    ///
    /// Shapes do not determine the image size. It is assumed that the last stage has one window, as in all published
    /// recipes: 224 for windows of 7. `norm_eps` keeps its default.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if they do not belong to a Swin transformer.
    pub fn of_weights(weights: &WeightMap) -> Result<Self> {
        let dims = |name: &str| weights.get(name).map(|tensor| tensor.dims().to_vec());
        let has = |name: &str| weights.get(name).is_some();
        let unknown = |why: String| {
            let fix = "name their source (--source), or set the sizes with --set encoder.KEY=VALUE";
            Error::unsupported("finding the encoder of these weights", why, fix)
        };
        let needed = |name: &str| {
            dims(name).ok_or_else(|| unknown(format!("they have no {name}, which every Swin has")))
        };
        let patch = needed("patch_embed.proj.weight")?;
        let &[embed_dim, in_channels, patch_size, _] = patch.as_slice() else {
            return Err(unknown(format!("patch_embed.proj.weight is {patch:?}")));
        };
        let block = |stage: usize, block: usize| format!("layers.{stage}.blocks.{block}");
        let blocks = |stage: usize| {
            let is_there = |at: &usize| has(&format!("{}.norm1.weight", block(stage, *at)));
            (0..).take_while(is_there).count()
        };
        let depths: Vec<usize> = (0..).map(blocks).take_while(|blocks| *blocks > 0).collect();
        // [(2 window - 1)^2, heads]
        let table = |stage: usize| {
            let name = block(stage, 0) + ".attn.relative_position_bias_table";
            let table = needed(&name)?;
            match table.as_slice() {
                &[rows, heads] if rows.isqrt().pow(2) == rows => {
                    Ok((rows.isqrt().div_ceil(2), heads))
                }
                other => Err(unknown(format!("{name} is {other:?}"))),
            }
        };
        let stages: Vec<_> = (0..depths.len()).map(table).collect::<Result<_>>()?;
        let window_size = stages.first().map_or(0, |(window, _)| *window);
        let hidden = needed(&format!("{}.mlp.fc1.weight", block(0, 0)))?;
        let stride = patch_size << depths.len().saturating_sub(1);
        Ok(Self {
            image_size: (window_size * stride).into(),
            patch_size,
            in_channels,
            embed_dim,
            num_heads: stages.into_iter().map(|(_, heads)| heads).collect(),
            depths,
            window_size,
            mlp_ratio: hidden.first().copied().unwrap_or(0) as f64 / embed_dim as f64,
            qkv_bias: match (
                has(&format!("{}.attn.qkv.bias", block(0, 0))),
                has(&format!("{}.attn.q_bias", block(0, 0))),
            ) {
                (true, _) => QkvBias::Full,
                (false, true) => QkvBias::QV,
                (false, false) => QkvBias::None,
            },
            patch_norm: has("patch_embed.norm.weight"),
            mask_token: has("mask_token"),
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::encoders::Swin;

    #[test]
    fn settings_are_inferred_from_weights() {
        let tiny = SwinConfig {
            image_size: 56.into(),
            embed_dim: 8,
            depths: vec![2, 1],
            num_heads: vec![2, 4],
            window_size: 7,
            mlp_ratio: 2.,
            ..SwinConfig::default()
        };
        let other = SwinConfig {
            in_channels: 1,
            qkv_bias: QkvBias::QV,
            patch_norm: false,
            mask_token: false,
            ..tiny.clone()
        };
        for config in [tiny, other] {
            let store = ParamStore::cpu(0);
            Swin::new(&store.root(), &config).unwrap();
            let vars = store.vars().into_iter();
            let weights: WeightMap = vars
                .map(|(name, var)| (name, var.as_detached_tensor()))
                .collect();
            assert!(SwinConfig::looks_like(&weights));
            assert_eq!(SwinConfig::of_weights(&weights).unwrap(), config);
        }
        let error = SwinConfig::of_weights(&WeightMap::default()).unwrap_err();
        assert!(
            error.to_string().contains("no patch_embed.proj.weight"),
            "{error}"
        );
    }
}
