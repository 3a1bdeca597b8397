//! Layer-wise decay of the learning rate.

/// Learning rates that shrink towards the input of an encoder, for fine-tuning: a parameter of layer `l` gets
/// `rate^(blocks + 1 - l)` of the learning rate.
///
/// Layer 0 holds patches, class token and positions, layer `n + 1` holds block `n`, and layer `blocks + 1` the rest:
/// final norm, head, a relative bias shared by all blocks. In encoders with stages, blocks are numbered across stages,
/// and layers between two stages belong to the last block before them.
///
/// BEiT (Bao et al., ICLR 2022), microsoft/unilm @ 768a3c8, `beit/optim_factory.py`; MAE has the same. Stages:
/// microsoft/SimMIM @ d3e29bc, `optimizer.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerDecay {
    rate: f64,
    /// Number of blocks per stage.
    depths: Vec<usize>,
}

/// Position of a parameter in an encoder.
enum Place {
    Embedding,
    Block { stage: usize, block: usize },
    After { stage: usize },
    Rest,
}

/// Names before the blocks.
const EMBEDDING: [&str; 4] = ["cls_token", "mask_token", "pos_embed", "patch_embed"];

/// The number in a name such as `blocks2`; 1 for `blocks` alone.
fn numbered(part: &str, name: &str) -> Option<usize> {
    match part.strip_prefix(name)? {
        "" => Some(1),
        number => number.parse().ok().filter(|number| *number > 0),
    }
}

fn place(name: &str) -> Place {
    let parts: Vec<&str> = name.split('.').collect();
    let number = |at: usize| parts.get(at).and_then(|part| part.parse::<usize>().ok());
    if let ("layers", Some(stage)) = (parts[0], number(1)) {
        return match (parts.get(2), number(3)) {
            (Some(&"blocks"), Some(block)) => Place::Block { stage, block },
            _ => Place::After { stage },
        };
    }
    let stage = numbered(parts[0], "blocks").or(numbered(parts[0], "block"));
    if let (Some(stage), Some(block)) = (stage, number(1)) {
        let stage = stage - 1;
        return Place::Block { stage, block };
    }
    match numbered(parts[0], "patch_embed") {
        Some(stage) if stage > 1 => Place::After { stage: stage - 2 },
        _ if EMBEDDING.iter().any(|known| parts[0].starts_with(known)) => Place::Embedding,
        _ => Place::Rest,
    }
}

impl LayerDecay {
    /// For an encoder with `depths` blocks per stage; a ViT has one stage.
    pub fn new(rate: f64, depths: &[usize]) -> Self {
        Self {
            rate,
            depths: depths.to_vec(),
        }
    }

    /// For an encoder whose parameters have these names.
    pub fn of_names<'a>(rate: f64, names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut depths: Vec<usize> = Vec::new();
        for name in names {
            if let Place::Block { stage, block } = place(name) {
                depths.resize(depths.len().max(stage + 1), 0);
                depths[stage] = depths[stage].max(block + 1);
            }
        }
        Self { rate, depths }
    }

    /// The layer of the parameter `name`, from 0.
    pub fn layer(&self, name: &str) -> usize {
        let before = |stage: usize| self.depths.iter().take(stage).sum::<usize>();
        match place(name) {
            Place::Embedding => 0,
            Place::Block { stage, block } => before(stage) + block + 1,
            Place::After { stage } => before(stage + 1),
            Place::Rest => before(self.depths.len()) + 1,
        }
    }

    /// Factor of the learning rate for the parameter `name`.
    pub fn scale(&self, name: &str) -> f64 {
        self.of_layer(self.layer(name))
    }

    /// The factors of all layers, from the input on.
    pub fn scales(&self) -> Vec<f64> {
        let layers = self.depths.iter().sum::<usize>() + 2;
        (0..layers).map(|layer| self.of_layer(layer)).collect()
    }

    fn of_layer(&self, layer: usize) -> f64 {
        let above = (self.depths.iter().sum::<usize>() + 1).saturating_sub(layer);
        self.rate.powi(i32::try_from(above).unwrap_or(i32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vit_names_get_the_layers_of_the_released_code() {
        let decay = LayerDecay::new(0.5, &[2]);
        let names = [
            ("pos_embed", 0),
            ("patch_embed.proj.bias", 0),
            ("blocks.0.norm1.weight", 1),
            ("blocks.1.mlp.fc1.weight", 2),
            ("rel_pos_bias.relative_position_bias_table", 3),
            ("norm.weight", 3),
            ("head.bias", 3),
        ];
        for (name, layer) in names {
            assert_eq!(decay.layer(name), layer, "{name}");
            assert_eq!(decay.scale(name), decay.scales()[layer], "{name}");
        }
        assert_eq!(decay.scales(), [0.125, 0.25, 0.5, 1.]);
        assert_eq!(
            LayerDecay::of_names(0.5, names.map(|(name, _)| name)),
            decay
        );
    }

    #[test]
    fn blocks_are_numbered_across_stages() {
        for names in [
            [
                ("patch_embed.norm.bias", 0),
                ("layers.0.blocks.1.norm1.weight", 2),
                ("layers.0.downsample.reduction.weight", 2),
                ("layers.1.blocks.0.norm1.weight", 3),
                ("norm.weight", 4),
            ],
            [
                ("patch_embed1.proj.bias", 0),
                ("block1.1.norm1.weight", 2),
                ("patch_embed2.proj.bias", 2),
                ("block2.0.norm1.weight", 3),
                ("norm2.weight", 4),
            ],
            [
                ("patch_embed1.proj.bias", 0),
                ("blocks1.1.norm1.weight", 2),
                ("patch_embed2.norm.bias", 2),
                ("blocks2.0.norm1.weight", 3),
                ("head.weight", 4),
            ],
        ] {
            let decay = LayerDecay::of_names(0.5, names.map(|(name, _)| name));
            assert_eq!(decay, LayerDecay::new(0.5, &[2, 1]));
            for (name, layer) in names {
                assert_eq!(decay.layer(name), layer, "{name}");
            }
        }
    }
}
