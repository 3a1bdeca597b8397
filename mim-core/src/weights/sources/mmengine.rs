//! MaskFeat in open-mmlab/mmpretrain @ ee7f2e8: OpenMMLab's ViT, a linear neck, the filters of the histograms.

use super::cmae;
use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        Rule::ignore("target_generator.{p}"),
        Rule::rename("backbone.mask_token", "mask_token"),
        Rule::rename("neck.fc.{p}", "decoder_pred.{p}"),
    ];
    rules.extend(cmae::encoder("backbone.", ""));
    rules
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use crate::weights::{Source, WeightMap};

    #[test]
    fn openmmlab_names_translate_in_both_directions() {
        let pairs = [
            ("backbone.cls_token", "cls_token"),
            ("backbone.mask_token", "mask_token"),
            ("backbone.pos_embed", "pos_embed"),
            (
                "backbone.patch_embed.projection.weight",
                "patch_embed.proj.weight",
            ),
            ("backbone.layers.3.ln1.bias", "blocks.3.norm1.bias"),
            (
                "backbone.layers.3.attn.qkv.weight",
                "blocks.3.attn.qkv.weight",
            ),
            (
                "backbone.layers.3.ffn.layers.0.0.bias",
                "blocks.3.mlp.fc1.bias",
            ),
            (
                "backbone.layers.3.ffn.layers.1.bias",
                "blocks.3.mlp.fc2.bias",
            ),
            ("backbone.ln1.weight", "norm.weight"),
            ("neck.fc.weight", "decoder_pred.weight"),
        ];
        let named = |names: &[&str]| -> WeightMap {
            let zero = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
            let entries = names.iter().map(|name| ((*name).to_owned(), zero.clone()));
            entries.collect()
        };
        let sorted = |map: &WeightMap| {
            let mut names: Vec<String> = map.names().map(str::to_owned).collect();
            names.sort();
            names
        };
        let source = Source::named("mmengine").unwrap();
        let (theirs, ours) = (named(&pairs.map(|p| p.0)), named(&pairs.map(|p| p.1)));
        let mut file = theirs.clone();
        let filter = file.get("neck.fc.weight").cloned().unwrap();
        file.insert("target_generator.weight_x", filter);
        assert_eq!(sorted(&source.import(&file).unwrap()), sorted(&ours));
        assert_eq!(sorted(&source.export(&ours).unwrap()), sorted(&theirs));
    }
}
