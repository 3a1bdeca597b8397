//! Layer-wise decay of the learning rate.

/// Learning rates that shrink towards the input of a ViT, for fine-tuning: layer `l` of `depth + 2` has
/// `rate^(depth + 1 - l)` of the learning rate.
///
/// BEiT (Bao et al., ICLR 2022), microsoft/unilm @ 768a3c8, `beit/optim_factory.py`; MAE has the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerDecay {
    /// What each layer nearer to the input is multiplied by, such as 0.65.
    pub rate: f64,
    /// Blocks of the encoder.
    pub depth: usize,
}

/// What stands before the blocks.
const EMBEDDING: [&str; 3] = ["cls_token", "mask_token", "pos_embed"];

impl LayerDecay {
    /// The layer of the parameter `name`: 0 for patches, tokens and positions, `N + 1` for `blocks.N`, and `depth + 1`
    /// for everything else, a shared relative bias among it.
    pub fn layer(&self, name: &str) -> usize {
        if EMBEDDING.contains(&name) || name.starts_with("patch_embed.") {
            return 0;
        }
        let block = name
            .strip_prefix("blocks.")
            .and_then(|rest| rest.split('.').next());
        let block = block.and_then(|number| number.parse::<usize>().ok());
        block.map_or(self.depth + 1, |number| number + 1)
    }

    /// What the learning rate of the parameter `name` is multiplied by.
    pub fn scale(&self, name: &str) -> f64 {
        self.of_layer(self.layer(name))
    }

    /// The factors of all layers, from the input on.
    pub fn scales(&self) -> Vec<f64> {
        (0..self.depth + 2)
            .map(|layer| self.of_layer(layer))
            .collect()
    }

    fn of_layer(&self, layer: usize) -> f64 {
        let above = (self.depth + 1).saturating_sub(layer);
        self.rate.powi(i32::try_from(above).unwrap_or(i32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_layers_of_the_release() {
        let decay = LayerDecay {
            rate: 0.5,
            depth: 2,
        };
        for (name, layer) in [
            ("pos_embed", 0),
            ("patch_embed.proj.bias", 0),
            ("blocks.0.norm1.weight", 1),
            ("blocks.1.mlp.fc1.weight", 2),
            ("rel_pos_bias.relative_position_bias_table", 3),
            ("norm.weight", 3),
            ("head.bias", 3),
        ] {
            assert_eq!(decay.layer(name), layer, "{name}");
            assert_eq!(decay.scale(name), decay.scales()[layer], "{name}");
        }
        assert_eq!(decay.scales(), [0.125, 0.25, 0.5, 1.]);
    }
}
